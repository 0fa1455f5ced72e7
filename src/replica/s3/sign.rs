//! Signature version 4: what a request carries so that the store knows who sent it, and that nobody changed it.
//!
//! Pure: bytes and a moment in, headers out. The path is encoded once, as S3 wants it, and a header is signed when it is
//! given here. Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header".

use std::fmt::{self, Write};

use ring::{digest, hmac};

use crate::types::Timestamp;

/// Who signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub access: String,
    pub secret: String,
    /// Of keys that end.
    pub token: Option<String>,
}

/// Nothing of it may reach a log.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// One request as it will be sent.
pub struct Request<'a> {
    pub method: &'a str,
    pub host: &'a str,
    /// Encoded by [`encode`], from the first slash on.
    pub path: &'a str,
    /// Names and values, not encoded, in any order.
    pub query: &'a [(&'a str, &'a str)],
    /// Names in small letters; those of [`sign`] and `host` are added.
    pub headers: &'a [(&'a str, String)],
    /// Hexadecimal SHA-256 of the body.
    pub body_sha256: &'a str,
}

/// The headers to send besides those of the request: date, hash of the body, token, authorization.
pub fn sign(request: &Request<'_>, keys: &Keys, region: &str, at: Timestamp) -> Vec<(&'static str, String)> {
    let moment = compact(at);
    let day = &moment[..8];
    let mut added =
        vec![("x-amz-content-sha256", request.body_sha256.to_owned()), ("x-amz-date", moment.clone())];
    added.extend(keys.token.iter().map(|token| ("x-amz-security-token", token.clone())));
    let mut headers: Vec<(&str, &str)> = vec![("host", request.host)];
    headers.extend(request.headers.iter().map(|(name, value)| (*name, value.as_str())));
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, query(request.query));
    for (name, value) in &headers {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(canonical, "{name}:{value}").expect("BUG: a String takes text");
    }
    write!(canonical, "\n{names}\n{}", request.body_sha256).expect("BUG: a String takes text");
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let key = [region, "s3", "aws4_request"]
        .iter()
        .fold(mac(format!("AWS4{}", keys.secret).as_bytes(), day), |key, part| mac(key.as_ref(), part));
    let signature = hex(mac(key.as_ref(), &text).as_ref());
    let access = &keys.access;
    added.push((
        "authorization",
        format!("AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"),
    ));
    added
}

/// Names and values in the order and encoding that are signed; send it so.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut pairs: Vec<_> = pairs.iter().map(|(name, value)| (encode(name, ""), encode(value, ""))).collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Percent-encodes every byte that is not unreserved (RFC 3986 2.3) and not in `keep`.
pub fn encode(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) && c.is_ascii() {
            encoded.push(c);
        } else {
            write!(encoded, "%{byte:02X}").expect("BUG: a String takes text");
        }
    }
    encoded
}

/// A SHA-256 that grows.
pub struct Sha256(digest::Context);

impl Sha256 {
    pub fn new() -> Sha256 {
        Sha256(digest::Context::new(&digest::SHA256))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// In hexadecimal.
    pub fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

/// Hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20130524T000000Z`.
fn compact(at: Timestamp) -> String {
    let text = at.to_string();
    let seconds = text.split('.').next().expect("BUG: split gives one part");
    seconds.chars().filter(char::is_ascii_alphanumeric).chain(['Z']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the API reference: one host, one moment, one key.
    fn signature(
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        body: &[u8],
    ) -> String {
        let keys = Keys {
            access: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: None,
        };
        let host = "examplebucket.s3.amazonaws.com";
        let body_sha256 = &sha256(body);
        let request = Request { method, host, path, query, headers, body_sha256 };
        let at = Timestamp::parse("2013-05-24T00:00:00Z").unwrap();
        let added = sign(&request, &keys, "us-east-1", at);
        let (_, authorization) = added.last().unwrap();
        assert!(
            authorization.contains("Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ")
        );
        authorization.rsplit('=').next().unwrap().to_owned()
    }

    #[test]
    fn examples_of_the_reference_have_their_signatures() {
        let range = [("range", "bytes=0-9".to_owned())];
        assert_eq!(
            signature("GET", "/test.txt", &[], &range, b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
        ];
        assert_eq!(
            signature("PUT", &encode("/test$file.text", "/"), &[], &headers, b"Welcome to Amazon S3."),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            signature("GET", "/", &[("lifecycle", "")], &[], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            signature("GET", "/", &[("prefix", "J"), ("max-keys", "2")], &[], b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn keys_that_end_sign_their_token() {
        let keys = Keys { access: "A".into(), secret: "hush".into(), token: Some("t".into()) };
        let request =
            Request { method: "GET", host: "h", path: "/", query: &[], headers: &[], body_sha256: "" };
        let added = sign(&request, &keys, "r", Timestamp(0));
        assert!(added.contains(&("x-amz-security-token", "t".to_owned())));
        assert!(
            added.last().unwrap().1.contains("host;x-amz-content-sha256;x-amz-date;x-amz-security-token")
        );
        assert!(!format!("{keys:?} {added:?}").contains("hush"));
    }
}
