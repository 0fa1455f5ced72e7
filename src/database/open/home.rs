//! The home replica before an open is decided: where its history ends, or that it does not say.
//!
//! A folder answers, or the open fails. A store is asked for at most `replica_open_timeout`: an application must start
//! while the network is away. What it did not say is asked again by the worker, before anything is sent
//! ([`crate::database::reach`]).

use std::sync::Arc;

use crate::clock::Deadline;
use crate::config::{Config, ReplicaUrl, Settings};
use crate::error::{Error, Kind, Result};
use crate::replica::Client;
use crate::upload::Head;

pub struct Home {
    pub client: Arc<dyn Client>,
    /// The same, but no request of it outlives the open.
    hurried: Arc<dyn Client>,
    is_bucket: bool,
    /// It has said where its history ends.
    pub is_known: bool,
    /// Why it did not.
    pub silence: Option<Error>,
}

impl Home {
    /// # Errors
    /// `Invalid` for what was said of a store; those of making a folder.
    pub fn of(config: &Config, settings: &Settings) -> Result<Home> {
        let hurried = config.client(settings, 0, Some(Deadline::after(settings.open_timeout)))?;
        hurried.prepare()?;
        let is_bucket = matches!(settings.replicas[0], ReplicaUrl::Bucket(..));
        let client = config.client(settings, 0, None)?;
        Ok(Home { client, hurried, is_bucket, is_known: false, silence: None })
    }

    /// Asks where the history ends; `None`: it holds nothing, or is silent.
    ///
    /// # Errors
    /// Those of a folder; `Corrupt`.
    pub fn look(&mut self) -> Result<Option<Head>> {
        match Head::of(&*self.hurried) {
            Err(error) if self.is_bucket && error.kind() != Kind::Corrupt => {
                self.silence = Some(error);
                Ok(None)
            }
            other => {
                let head = other?;
                self.is_known = true;
                Ok(head)
            }
        }
    }
}
