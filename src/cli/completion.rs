//! `completion`: what a shell needs to complete our words.

use super::{Answer, Program};
use crate::error::{Error, Kind, Result};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Print a script that completes the words of this program in a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate completion bash > /etc/bash_completion.d/sqlitereplicate")]
pub struct Completion {
    shell: Shell,
}

impl Completion {
    pub fn run(&self) -> Result<Answer> {
        let mut script = Vec::new();
        generate(self.shell, &mut Program::command(), "sqlitereplicate", &mut script);
        let text = String::from_utf8(script);
        text.map(Answer::from).map_err(|_| Error::new(Kind::Io, "the script is no UTF-8"))
    }
}
