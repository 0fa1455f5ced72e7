//! `s3://bucket/prefix[?name=value&...]`, taken apart. Pure.
//!
//! The parameters are for whoever cannot pass settings: the functions of SQL and the command line. In the URI of a
//! database SQLite cuts at `&`, so that there they are settings of their own.

use std::fmt;

/// A bucket and what stands in front of every key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub bucket: String,
    /// Without slash at either end; not empty.
    pub prefix: String,
}

/// Why a text is no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadPlace {
    /// No UTF-8, or a control character.
    Text,
    Bucket,
    NoPrefix,
    Prefix,
    Parameter(String),
}

impl fmt::Display for BadPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadPlace::Text => write!(f, "is no text without control characters"),
            BadPlace::Bucket => write!(f, "has no name of a bucket (3 to 63 of a-z, 0-9, '.' and '-')"),
            BadPlace::NoPrefix => {
                write!(f, "needs a prefix behind the bucket: what lies at the top is hard to share")
            }
            BadPlace::Prefix => {
                write!(f, "has an empty part, '.' or '..' in its prefix, which stores treat differently")
            }
            BadPlace::Parameter(part) => {
                write!(f, "has '{part}' behind the question mark, which is no name=value")
            }
        }
    }
}

/// A place and the parameters behind it, decoded.
pub type Parsed = (Place, Vec<(String, String)>);

impl Place {
    /// Takes what follows `s3://`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(rest: &[u8]) -> Result<Parsed, BadPlace> {
        let rest = std::str::from_utf8(rest).map_err(|_| BadPlace::Text)?;
        if rest.chars().any(char::is_control) {
            return Err(BadPlace::Text);
        }
        let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(valid) {
            return Err(BadPlace::Bucket);
        }
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() {
            return Err(BadPlace::NoPrefix);
        }
        if prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(BadPlace::Prefix);
        }
        let mut pairs = Vec::new();
        for part in parameters.split('&').filter(|part| !part.is_empty()) {
            let bad = || BadPlace::Parameter(shown(part.split('=').next().unwrap_or_default()));
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            pairs.push((name.to_owned(), decode(value).ok_or_else(bad)?));
        }
        Ok((Place { bucket: bucket.to_owned(), prefix: prefix.to_owned() }, pairs))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// The name of a parameter, fit for a message: what is none may be a secret key without a name.
fn shown(name: &str) -> String {
    const NAME_MAX: usize = 20;
    let is_name =
        name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if is_name { name.to_owned() } else { "***".to_owned() }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_prefix_and_parameters_are_taken_apart() {
        let (place, parameters) =
            Place::parse(b"my.bucket-1/a/b c/?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=eu").unwrap();
        assert_eq!(place.to_string(), "s3://my.bucket-1/a/b c");
        let expected = [("endpoint", "http://127.0.0.1:9000"), ("region", "eu")];
        assert_eq!(parameters, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn what_is_no_place_says_why() {
        for (rest, why) in [
            (&b""[..], BadPlace::Bucket),
            (b"ab/x", BadPlace::Bucket),
            (b"Bucket/x", BadPlace::Bucket),
            (b"key:hush@bucket/x", BadPlace::Bucket),
            (b"bucket", BadPlace::NoPrefix),
            (b"bucket//", BadPlace::NoPrefix),
            (b"bucket/a//b", BadPlace::Prefix),
            (b"bucket/../b", BadPlace::Prefix),
            (b"bucket/a\nb", BadPlace::Text),
            (b"bucket/\xff", BadPlace::Text),
            (b"bucket/a?endpoint", BadPlace::Parameter("endpoint".into())),
            (b"bucket/a?x=%zz", BadPlace::Parameter("x".into())),
            (b"bucket/a?hush/hush/hush/hush/hush/hush/hush/hush1", BadPlace::Parameter("***".into())),
        ] {
            assert_eq!(Place::parse(rest), Err(why));
        }
    }
}
