//! What people write: URLs, rules, options, values, the files of AWS, names.

use super::{MIB, Target, check_error, unmended};
use crate::config::{ReplicaUrl, aws, file, setting, value};
use crate::ltx::name;
use crate::replica::s3::{Place, read_http_date as http_date};
use crate::types::Timestamp;

pub const URL: Target = Target {
    name: "url",
    samples: || {
        let urls: [&[u8]; 4] = [
            b"file:///var/backup/app%20?x",
            b"s3://my.bucket-1/a/b?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=eu&part_size=5MiB&path_style=1",
            b"S3://key:hush@bucket/x?sse=aws:kms",
            b"file:////x",
        ];
        urls.map(<[u8]>::to_vec).to_vec()
    },
    words: &["://", "%", "%2", "%zz", "?", "&", "=", "/", "..", "@", "file:", "s3:", "\0", "\n", "[::1]:9"],
    mend: unmended,
    run: url,
    memory_max: MIB,
    is_parts: false,
};

const JSON: &[&str] = &[
    "{", "}", "[", "]", "\"", ":", ",", "null", "true", "-", "1e999", "\\u0000", "\\ud800", "path",
    "replica", "*",
];

pub const RULES: Target = Target {
    name: "rules",
    samples: || {
        let rules = br#"[{"path":"/var/lib/*.db","replica":"file:///b/{name}","replica_interval":"1s"},
            {"path":"/a.db","replica":"s3://bkt/x","replica_log_max":2097152,"replica_path_style":true}]"#;
        vec![rules.to_vec(), br#"{"path":"/x","replica":"none"}"#.to_vec()]
    },
    words: JSON,
    run: |bytes| {
        if let Err(error) = file::rules(bytes) {
            check_error(&error);
        }
    },
    memory_max: 8 * MIB,
    ..URL
};

pub const OPTIONS: Target = Target {
    name: "options",
    samples: || {
        vec![
            br#"{"default_vfs":true,"replica_interval":2,"replica_levels":"30s,5m,1h","replica_log":"/x"}"#
                .to_vec(),
        ]
    },
    run: |bytes| {
        if let Err(error) = file::options(&String::from_utf8_lossy(bytes)) {
            check_error(&error);
        }
    },
    ..RULES
};

pub const VALUES: Target = Target {
    name: "values",
    samples: || {
        [
            "1.25h",
            "999999999999.999999999d",
            "64MiB",
            "18446744073709551615TiB",
            "true",
            "30s,5m,1h",
            "2026-11-21T06:58:22.61+01:00",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &["ms", "s", "d", ".", "-", "+", "9", "KiB", "TiB", "off", ",", "T", "Z", "µ"],
    run: values,
    ..URL
};

pub const AWS: Target = Target {
    name: "aws",
    samples: || {
        let credentials =
            b"[default]\naws_access_key_id = D\naws_secret_access_key=hush # mine\n[work]\nx=y\n";
        let config =
            b"[profile work]\nregion=eu-2\ns3 =\n  endpoint_url = nested\n[default]\nendpoint_url=http://h\n";
        vec![credentials.to_vec(), config.to_vec()]
    },
    words: &["[", "]", "=", "#", "\n", "\r\n", "[default]", "profile ", "  ", "\u{feff}"],
    run: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        for header in ["default", "profile work", ""] {
            aws::section(&text, header);
        }
    },
    ..URL
};

pub const NAMES: Target = Target {
    name: "names",
    samples: || {
        [
            "0000000000000001-00000000000000ff.ltx",
            "generations/0123456789abcdef/wal/00000003_00000000.wal.lz4",
            "generations/0123456789abcdef/snapshots/00000003.snapshot.lz4",
            "generations/0123456789abcdef/wal/0000000000000003/0000000000000000.wal.lz4",
            "p/0009/0000000000000001-7fffffffffffffff.ltx",
            "Fri, 24 May 2013 01:02:03 GMT",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        "..",
        "/",
        "\0",
        "\n",
        "-",
        "_",
        "ffffffffffffffff",
        ".ltx",
        ".lz4",
        "wal/",
        "generations/",
        "µ",
    ],
    run: names,
    ..URL
};

fn url(bytes: &[u8]) {
    let shown = crate::config::show_url(bytes);
    assert!(!shown.contains(char::is_control), "a control character is shown");
    match ReplicaUrl::parse(bytes) {
        Ok(ReplicaUrl::File(folder)) => {
            let again = [b"file://", std::os::unix::ffi::OsStrExt::as_bytes(folder.as_os_str())].concat();
            assert_eq!(ReplicaUrl::parse(&again), Ok(ReplicaUrl::File(folder)), "what is written is read");
        }
        Ok(ReplicaUrl::Bucket(place, _)) => {
            let again = place.to_string();
            assert_eq!(
                Place::parse(again["s3://".len()..].split('?').next().unwrap().as_bytes()).unwrap().0,
                place
            );
        }
        Err(text) => assert!(text.len() < 4000 && !text.contains('\0'), "{text}"),
    }
}

fn values(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(duration) = value::duration(&text) {
        let shown = value::show_duration(duration);
        assert_eq!(value::duration(&shown).map(|d| d.as_millis()), Some(duration.as_millis()));
    }
    if let Some(size) = value::size(&text) {
        assert_eq!(value::size(&value::show_size(size)), Some(size));
    }
    value::flag(&text);
    if let Some(at) = Timestamp::parse(&text) {
        assert!(Timestamp::parse(&at.to_string()).is_none_or(|again| again == at));
    }
    for setting in setting::SETTINGS {
        if let Err(error) = setting.parse(setting.name, bytes) {
            check_error(&error);
        }
    }
}

fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(range) = name::parse(&text) {
        assert_eq!(name::parse(&name::format(range)), Some(range));
        assert!(!text.contains(['/', '\0', '\n']));
    }
    crate::legacy::names::parse(&text);
    crate::replica::s3::replica_of(&text);
    if let Some(at) = http_date(&text) {
        assert!(at.to_string().ends_with('Z'));
    }
}
