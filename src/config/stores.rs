//! Who reaches the replica that a URL names: a folder by itself, a bucket with the help of the standard variables.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use super::aws::Aws;
use super::url::ReplicaUrl;
use crate::clock::Deadline;
use crate::error::Result;
use crate::lock::Mutex;
use crate::replica::s3::{Options, Place, Session, Sources};
use crate::replica::{Client, FileReplica, S3Replica, file};

/// Sessions are shared: a thousand databases in one bucket have one pool of connections, and ask for keys once.
#[derive(Debug, Default)]
pub struct Stores {
    aws: Aws,
    // Guards the sessions so far.
    sessions: Mutex<Vec<Shared>>,
}

/// A session, and what it was made of.
#[derive(Debug)]
struct Shared {
    ca_bundle: Option<PathBuf>,
    sources: Sources,
    session: Arc<Session>,
}

impl Stores {
    /// Keeps the variable if it is one of those that matter.
    pub fn take(&mut self, name: &OsStr, value: &OsStr) {
        self.aws.take(name, value);
    }

    /// The client of a replica; touches nothing yet. `settings`: what was said of the store elsewhere than in the URL.
    /// No request of it outlives the deadline.
    ///
    /// # Errors
    /// `Invalid` for a profile, a bundle or an endpoint that is none.
    pub fn client(
        &self,
        url: &ReplicaUrl,
        settings: &Options,
        deadline: Option<Deadline>,
    ) -> Result<Arc<dyn Client>> {
        Ok(match url {
            ReplicaUrl::File(folder) => Arc::new(FileReplica::at(folder.clone())),
            ReplicaUrl::Bucket(place, own) => {
                let (options, sources) = self.aws.access(own.clone().or(settings))?;
                let session = self.session(options.ca_bundle.clone(), sources)?;
                Arc::new(S3Replica::new(place, options, session, deadline)?)
            }
        })
    }

    /// Every replica at a place and below it, by URL.
    ///
    /// # Errors
    /// As [`Stores::client`]; those of the store.
    pub fn below(&self, url: &ReplicaUrl) -> Result<Vec<(String, Arc<dyn Client>)>> {
        let urls: Vec<ReplicaUrl> = match url {
            ReplicaUrl::File(folder) => file::below(folder)?.into_iter().map(ReplicaUrl::File).collect(),
            ReplicaUrl::Bucket(place, options) => {
                let (access, sources) = self.aws.access(options.clone())?;
                let session = self.session(access.ca_bundle.clone(), sources)?;
                let prefixes = S3Replica::new(place, access, session, None)?.below()?;
                let at = |prefix| ReplicaUrl::Bucket(Place { prefix, ..place.clone() }, options.clone());
                prefixes.into_iter().map(at).collect()
            }
        };
        let client = |url: ReplicaUrl| -> Result<(String, Arc<dyn Client>)> {
            Ok((url.to_string(), self.client(&url, &Options::default(), None)?))
        };
        urls.into_iter().map(client).collect()
    }

    /// An empty place of its own beside the files of a replica, which no reader of it looks at. A folder is made for it,
    /// and is the caller's to remove.
    ///
    /// # Errors
    /// As [`Stores::client`]; those of making the folder.
    pub fn beside(&self, url: &ReplicaUrl, name: &str) -> Result<(Arc<dyn Client>, Option<PathBuf>)> {
        let (own, folder) = match url {
            ReplicaUrl::File(folder) => (ReplicaUrl::File(folder.join(name)), Some(folder.join(name))),
            ReplicaUrl::Bucket(place, options) => {
                let prefix = format!("{}/{name}", place.prefix);
                (ReplicaUrl::Bucket(Place { prefix, ..place.clone() }, options.clone()), None)
            }
        };
        let client = self.client(&own, &Options::default(), None)?;
        client.prepare()?;
        Ok((client, folder))
    }

    fn session(&self, ca_bundle: Option<PathBuf>, sources: Sources) -> Result<Arc<Session>> {
        let mut sessions = self.sessions.lock();
        if let Some(same) = sessions.iter().find(|s| s.ca_bundle == ca_bundle && s.sources == sources) {
            return Ok(Arc::clone(&same.session));
        }
        let session = Arc::new(Session::new(ca_bundle.as_deref(), sources.clone())?);
        sessions.push(Shared { ca_bundle, sources, session: Arc::clone(&session) });
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(stores: &Stores, text: &str) -> Result<Arc<dyn Client>> {
        stores.client(&ReplicaUrl::parse(text.as_bytes()).unwrap(), &Options::default(), None)
    }

    #[test]
    fn url_names_a_folder_or_a_place_in_a_bucket() {
        let stores = Stores::default();
        for url in ["file:///backup/app", "s3://bucket/app"] {
            assert_eq!(client(&stores, url).unwrap().url(), url);
        }
        let error = client(&stores, "s3://bucket/x?endpoint=ftp://h").map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("is not a store's address"), "{error}");
    }

    #[test]
    fn databases_that_are_reached_alike_share_a_session() {
        let mut stores = Stores::default();
        for bucket in ["one", "two"] {
            client(&stores, &format!("s3://{bucket}/x")).unwrap();
        }
        assert_eq!(stores.sessions.lock().len(), 1);
        stores.take("AWS_ACCESS_KEY_ID".as_ref(), "A".as_ref());
        stores.take("AWS_SECRET_ACCESS_KEY".as_ref(), "hush".as_ref());
        client(&stores, "s3://one/x").unwrap();
        assert_eq!(stores.sessions.lock().len(), 2);
        assert!(!format!("{stores:?}").contains("hush"));
    }
}
