//! What a store answers: listings, faults, keys, and the lease.

use super::{MIB, Target, check_error, unmended};
use crate::lease::object::Lease;
use crate::replica::s3::{answer, credentials};

pub const LISTING: Target = Target {
    name: "listing",
    samples: || {
        let list = b"<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Name>b</Name><IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b</NextContinuationToken>\
            <Contents><Key>p/0000/0000000000000001-0000000000000001.ltx</Key>\
            <LastModified>2026-11-21T06:58:22.000Z</LastModified><ETag>&quot;0a&quot;</ETag><Size>156</Size>\
            </Contents></ListBucketResult>";
        let fault = b"<Error><Code>NoSuchKey</Code><Message>none</Message><Region>r</Region></Error>";
        let upload = b"<R><UploadId>abc</UploadId><![CDATA[x]]><ETag>&#x22;1&#x22;</ETag></R>";
        vec![list.to_vec(), fault.to_vec(), upload.to_vec()]
    },
    words: &[
        "<a>",
        "</a>",
        "<Contents>",
        "</Contents>",
        "&lt;",
        "&#0;",
        "&#x110000;",
        "&x;",
        "<![CDATA[",
        "]]>",
        "<!--",
        "<?",
        "<!DOCTYPE a [<!ENTITY x \"y\">]>",
        "18446744073709551615",
        "true",
        "\0",
        "\u{feff}",
    ],
    mend: unmended,
    run: listing,
    memory_max: 4 * MIB,
    is_parts: false,
};

pub const KEYS: Target = Target {
    name: "keys",
    samples: || {
        vec![
            br#"{"AccessKeyId":"A","SecretAccessKey":"hush","Token":"t","Expiration":"2030-01-01T00:00:00Z"}"#.to_vec(),
        ]
    },
    words: &["{", "}", "[", "\"", ":", ",", "null", "\\u0000", "\\ud800", "1e999", "Expiration"],
    run: |bytes| {
        if let Err(error) = credentials::check_json(&String::from_utf8_lossy(bytes)) {
            check_error(&error);
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    },
    ..LISTING
};

pub const LEASE: Target = Target {
    name: "lease",
    samples: || {
        let ours = br#"{"generation":7,"expires_at":"2026-11-21T10:00:30.000Z","owner":"web-1:4711","id":"0123456789abcdef","url":"http://web-1:8080"}"#;
        let theirs = br#"{"generation":3,"expires_at":"2026-11-21T11:00:30.123456789+01:00","owner":"db:9","etag":{"x":[1]}}"#;
        vec![ours.to_vec(), theirs.to_vec()]
    },
    words: &[
        "{",
        "}",
        "[",
        "\"",
        ":",
        "pid-",
        "9223372036854775807",
        "1970-01-01T00:00:00Z",
        "\\u0007",
        "\\n",
    ],
    run: lease,
    ..LISTING
};

fn listing(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match answer::listing(&text) {
        Ok(page) => assert!(page.objects.len() <= text.len()),
        Err(error) => check_error(&error),
    }
    let fault = answer::fault(&text);
    assert!(fault.code.chars().count() <= 300 && fault.message.chars().count() <= 300);
    answer::element(&text, "ETag");
}

fn lease(bytes: &[u8]) {
    match Lease::parse(bytes) {
        Ok(lease) => {
            assert!(!lease.holder.to_string().contains(char::is_control));
            assert_eq!(Lease::parse(&lease.bytes()).unwrap(), lease);
        }
        Err(error) => check_error(&error),
    }
}
