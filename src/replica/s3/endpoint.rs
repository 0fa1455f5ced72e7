//! Where requests for the objects of one bucket go: scheme, host and path.
//!
//! ```text
//! Amazon's own     https://BUCKET.s3.REGION.amazonaws.com/KEY    a dot in BUCKET would break its certificate: as below
//! path style       SCHEME://HOST[:PORT]/BUCKET/KEY               with an endpoint, where nothing else is said
//! ```

use super::super::layout::show;
use super::sign::encode;
use crate::error::{Error, Result};

/// The store of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: &'static str,
    /// Host and port, as the `Host` header has them.
    host: String,
    /// In front of every key: empty, or `/BUCKET`, encoded.
    base: String,
}

impl Endpoint {
    /// `given` is a URL, or a host with or without port: then plain HTTP is meant for this machine, HTTPS for others.
    ///
    /// # Errors
    /// `Invalid` for what is no `http` or `https` URL of a host.
    pub fn new(
        bucket: &str,
        region: &str,
        given: Option<&str>,
        path_style: Option<bool>,
    ) -> Result<Endpoint> {
        let (scheme, host) = match given {
            Some(given) => split(given)?,
            None => {
                let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
                ("https", format!("s3.{region}.{domain}"))
            }
        };
        if path_style.unwrap_or(given.is_some() || bucket.contains('.')) {
            return Ok(Endpoint { scheme, host, base: format!("/{}", encode(bucket, "")) });
        }
        Ok(Endpoint { scheme, host: format!("{bucket}.{host}"), base: String::new() })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path of a key, encoded; that of the bucket for the empty key.
    pub fn path(&self, key: &str) -> String {
        if key.is_empty() && !self.base.is_empty() {
            return self.base.clone();
        }
        format!("{}/{}", self.base, encode(key, "/"))
    }

    /// The whole URL of an encoded path and query.
    pub fn url(&self, path: &str, query: &str) -> String {
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}://{}{path}{mark}{query}", self.scheme, self.host)
    }
}

/// An endpoint that is none, fit for a message: without what stands in front of its host or behind it.
fn shown(given: &str) -> String {
    let shown = show(given.as_bytes());
    let host = shown.find("://").map_or(0, |at| at + "://".len());
    match shown[host..].find('/') {
        Some(end) if host + end + 1 < shown.len() => format!("{}/...", &shown[..host + end]),
        _ => shown,
    }
}

fn split(given: &str) -> Result<(&'static str, String)> {
    let bad = || {
        Error::invalid(format!(
            "endpoint '{}' is not a store's address; allowed: like https://s3.example.com or http://127.0.0.1:9000",
            shown(given)
        ))
    };
    let (scheme, rest) = match given.split_once("://") {
        Some(("http", rest)) => (Some("http"), rest),
        Some(("https", rest)) => (Some("https"), rest),
        Some(_) => return Err(bad()),
        None => (None, given),
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let valid = |c: char| c.is_ascii_alphanumeric() || "-.:[]_".contains(c);
    if host.is_empty() || !host.chars().all(valid) {
        return Err(bad());
    }
    let is_local = host.starts_with("127.") || host.starts_with("[::1]") || host.starts_with("localhost");
    Ok((scheme.unwrap_or(if is_local { "http" } else { "https" }), host.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(bucket: &str, given: Option<&str>, path_style: Option<bool>) -> String {
        let endpoint = Endpoint::new(bucket, "eu-west-1", given, path_style).unwrap();
        endpoint.url(&endpoint.path("a/b c"), "x=1")
    }

    #[test]
    fn amazon_is_addressed_by_host_unless_the_bucket_has_a_dot() {
        assert_eq!(url("b", None, None), "https://b.s3.eu-west-1.amazonaws.com/a/b%20c?x=1");
        assert_eq!(url("b.c", None, None), "https://s3.eu-west-1.amazonaws.com/b.c/a/b%20c?x=1");
        assert_eq!(url("b", None, Some(true)), "https://s3.eu-west-1.amazonaws.com/b/a/b%20c?x=1");
        let china = Endpoint::new("b", "cn-north-1", None, None).unwrap();
        assert_eq!(china.host(), "b.s3.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn other_stores_are_addressed_by_path_unless_told_otherwise() {
        assert_eq!(url("b", Some("http://127.0.0.1:9000/"), None), "http://127.0.0.1:9000/b/a/b%20c?x=1");
        assert_eq!(url("b", Some("localhost:9000"), None), "http://localhost:9000/b/a/b%20c?x=1");
        assert_eq!(url("b", Some("s3.example.com"), Some(false)), "https://b.s3.example.com/a/b%20c?x=1");
        let endpoint = Endpoint::new("b", "r", Some("http://h"), None).unwrap();
        assert_eq!((endpoint.path("").as_str(), endpoint.host()), ("/b", "h"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for given in ["", "ftp://h", "http://", "http://user:pa/ss@host", "http://h/pass/word", "h?x=pass"] {
            let error = Endpoint::new("b", "r", Some(given), None).unwrap_err();
            assert!(error.to_string().contains("allowed: like https://"), "{error}");
            assert!(
                !["pa/ss", "pass", "word"].iter().any(|word| error.to_string().contains(word)),
                "{error}"
            );
        }
    }
}
