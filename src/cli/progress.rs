//! How far a long work has come, for somebody who looks at stderr.

use super::terminal::Terminal;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on stderr; nothing where nobody looks.
pub struct Progress(ProgressBar);

impl Progress {
    /// Of so many bytes; `what` stands in front, as in "reading".
    pub fn of_bytes(terminal: &Terminal<'_>, what: &'static str, total: u64) -> Progress {
        Progress::new(
            terminal,
            what,
            total,
            "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
    }

    /// Of so many things.
    pub fn of_things(terminal: &Terminal<'_>, what: &'static str, total: u64) -> Progress {
        Progress::new(terminal, what, total, "{msg} [{bar:30}] {pos} of {len}, {eta} left")
    }

    fn new(terminal: &Terminal<'_>, what: &'static str, total: u64, template: &str) -> Progress {
        let target =
            if terminal.err_is_seen() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(template).expect("BUG: the template of a bar is one");
        let bar = ProgressBar::with_draw_target(Some(total), target);
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what);
        Progress(bar)
    }

    /// Also how much there is, where that was not known before.
    pub fn set_of(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub fn set(&self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    /// The line is free again for what comes next.
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
