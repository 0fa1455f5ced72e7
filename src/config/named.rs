//! A replica that is named by a URL alone, for the functions of SQL and the command line.

use std::path::PathBuf;

use super::aws::{Aws, Given};
use super::url;
use super::value;
use crate::error::{Error, Result};
use crate::replica::s3::Place;
use crate::replica::{Client, FileReplica, S3Replica};

const ALLOWED: &str = "file:///absolute/folder or s3://bucket/prefix";
/// Names of the parameters of a store, each also with `replica_` in front.
const PARAMETERS: &str =
    "endpoint, region, path_style (or forcePathStyle), ca_bundle, sse, storage_class, part_size";

/// Where a URL leads.
enum Location {
    File(PathBuf),
    Bucket(Place, Given),
}

/// The replica of a URL; touches nothing yet.
///
/// # Errors
/// `Invalid` with the URL, without secrets, and what is allowed.
pub fn replica(text: &str, aws: &Aws) -> Result<Box<dyn Client>> {
    match parse(text)? {
        Location::File(_) => Ok(Box::new(FileReplica::open(text)?)),
        Location::Bucket(place, given) => Ok(Box::new(S3Replica::new(&place, aws.access(given)?)?)),
    }
}

/// An empty place of its own beside the files of a replica, which no reader of it looks at. A folder is made for it, and
/// is the caller's to remove.
///
/// # Errors
/// As [`replica`]; those of making the folder.
pub fn beside(text: &str, name: &str, aws: &Aws) -> Result<(Box<dyn Client>, Option<PathBuf>)> {
    match parse(text)? {
        Location::File(folder) => {
            let own = folder.join(name);
            Ok((Box::new(FileReplica::at_or_create(own.clone())?), Some(own)))
        }
        Location::Bucket(place, given) => {
            let place = Place { prefix: format!("{}/{name}", place.prefix), ..place };
            Ok((Box::new(S3Replica::new(&place, aws.access(given)?)?), None))
        }
    }
}

fn parse(text: &str) -> Result<Location> {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let rest = text.split_once("://").map(|(_, rest)| rest);
    let (Some("s3"), Some(rest)) = (scheme.as_deref(), rest) else {
        return match scheme.as_deref() {
            Some("file") => FileReplica::open(text).map(|replica| Location::File(replica.root().to_owned())),
            Some(scheme) if rest.is_some() => {
                Err(bad(text, &format!("has scheme {scheme:?}, which is not supported; allowed: {ALLOWED}")))
            }
            _ => Err(bad(text, &format!("is no URL; allowed: {ALLOWED}"))),
        };
    };
    let place = Place::parse(rest.as_bytes());
    let (place, parameters) = place.map_err(|why| bad(text, &format!("{why}; allowed: {ALLOWED}")))?;
    let mut given = Given::default();
    for (name, value) in parameters {
        if !set(&mut given, name.strip_prefix("replica_").unwrap_or(&name), &value) {
            let value = url::show(value.as_bytes());
            return Err(bad(text, &format!("has {name}={value}; allowed: good values of {PARAMETERS}")));
        }
    }
    Ok(Location::Bucket(place, given))
}

fn bad(text: &str, why: &str) -> Error {
    let shown = url::show(text.split('?').next().unwrap_or(text).as_bytes());
    Error::invalid(format!("replica URL '{shown}' {why}"))
}

/// `false`: no such parameter, or no good value of it.
fn set(given: &mut Given, name: &str, text: &str) -> bool {
    let own = || Some(text.to_owned()).filter(|text| !text.is_empty());
    match name {
        "endpoint" => given.endpoint = own(),
        "region" => given.region = own(),
        "path_style" | "forcePathStyle" => given.path_style = value::flag(text),
        "ca_bundle" => given.ca_bundle = own().map(PathBuf::from),
        "sse" => given.sse = own(),
        "storage_class" => given.storage_class = own(),
        "part_size" => {
            let size = value::size(text).filter(|size| (5 << 20..=5 << 30).contains(size));
            given.part_bytes = size.and_then(|size| usize::try_from(size).ok());
            return given.part_bytes.is_some();
        }
        _ => return false,
    }
    name != "path_style" && name != "forcePathStyle" && !text.is_empty() || given.path_style.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        replica(text, &Aws::default()).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn url_names_a_folder_or_a_place_in_a_bucket() {
        let url = |text: &str| replica(text, &Aws::default()).unwrap().url().to_owned();
        assert_eq!(url("file:///backup/app"), "file:///backup/app");
        let text = "S3://bucket/app/?endpoint=http://127.0.0.1:1&region=r&forcePathStyle=true&part_size=5MiB";
        assert_eq!(url(text), "s3://bucket/app");
    }

    #[test]
    fn bad_url_is_shown_without_what_may_be_secret() {
        for (text, why) in [
            (
                "gs://bucket/x",
                "has scheme \"gs\", which is not supported; allowed: file:///absolute/folder or s3://bucket/prefix",
            ),
            ("/backup", "is no URL"),
            ("s3://bucket", "needs a prefix"),
            ("s3://key:hush@bucket/x", "has no name of a bucket"),
            ("s3://bucket/x?secret=hush-hush", "has secret="),
            ("s3://bucket/x?part_size=1", "has part_size=1; allowed"),
            ("s3://bucket/x?path_style=maybe", "has path_style=maybe"),
            ("s3://bucket/x?region=", "has region=;"),
            ("s3://bucket/x?endpoint=ftp://h", "is not a store's address"),
        ] {
            let text = refusal(text);
            assert!(text.contains(why), "{text}");
            assert!(!text.contains(":hush"), "{text}");
        }
    }
}
