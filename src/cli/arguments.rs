//! Words that several verbs take.

use crate::catalog::words::{self, Moment};
use crate::catalog::{Settled, Target};
use crate::clock;
use crate::types::Txid;
use clap::Args;

/// How the answer is printed.
#[derive(Debug, Args)]
pub struct Output {
    /// Print one JSON value
    #[arg(long)]
    pub json: bool,
}

/// The state that is wanted; without one it is the newest.
#[derive(Debug, Args)]
pub struct Wanted {
    /// The state after this txid: a number, or 16 hex digits
    #[arg(long, value_name = "TXID", value_parser = txid, conflicts_with = "timestamp")]
    txid: Option<Txid>,

    /// The newest state that was captured until then: 2026-11-21T10:00:00Z (without a zone it is UTC), '5 minutes ago'
    #[arg(long, value_name = "TIME", value_parser = moment)]
    timestamp: Option<Moment>,
}

impl Wanted {
    /// The target, and how it was understood where that is not plain.
    pub fn target(&self) -> Settled {
        let target = match (&self.txid, &self.timestamp) {
            (Some(txid), _) => Target::Txid(*txid),
            (_, Some(moment)) => Target::At(moment.at),
            _ => Target::Newest,
        };
        Settled { target, notice: self.timestamp.as_ref().and_then(|moment| moment.notice.clone()) }
    }
}

fn txid(text: &str) -> Result<Txid, String> {
    words::txid(text).map_err(|error| error.to_string())
}

fn moment(text: &str) -> Result<Moment, String> {
    words::moment(text, clock::now()).map_err(|error| error.to_string())
}
