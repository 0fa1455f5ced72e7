//! The XML that stores answer: listings, and what went wrong. Pure; what is damaged or hostile is an error.
//!
//! Source: Amazon S3 API Reference, ListObjectsV2, CreateMultipartUpload and "Error Responses".

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::error::{Error, Result};
use crate::types::Timestamp;

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    /// Bytes.
    pub size: u64,
    pub etag: String,
    pub modified: Timestamp,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// There is more: what to ask for it with.
    pub next: Option<String>,
}

/// What a store says of a request that it refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// `NoSuchKey`, `AccessDenied`, ...; empty where it says nothing.
    pub code: String,
    pub message: String,
}

/// Elements inside each other; what stores answer has four.
const DEPTH_MAX: usize = 16;
/// Bytes of the largest object that is believed: more than any store takes, and thousands of them can be added up.
const SIZE_MAX: u64 = 1 << 46;
/// Characters of a text that go into a message.
const SHOWN_MAX: usize = 300;

/// Fit for a message: a store may answer anything.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
}

/// Calls `each` with the path of every element that holds text, and the text: `["Contents", "Key"]`, without the root.
fn texts(xml: &str, mut each: impl FnMut(&[String], String)) -> Result<(), String> {
    let mut reader = Reader::from_str(xml);
    let (mut path, mut text) = (Vec::new(), String::new());
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(_) if path.len() == DEPTH_MAX => {
                return Err(format!("more than {DEPTH_MAX} elements lie inside each other"));
            }
            Event::Start(element) => {
                path.push(String::from_utf8_lossy(element.local_name().as_ref()).into_owned());
                text.clear();
            }
            Event::Text(more) => text.push_str(&more.decode().map_err(|e| e.to_string())?),
            Event::CData(more) => text.push_str(&more.decode().map_err(|e| e.to_string())?),
            Event::GeneralRef(name) => {
                let name = name.decode().map_err(|e| e.to_string())?;
                text.push_str(&quick_xml::escape::unescape(&format!("&{name};")).map_err(|e| e.to_string())?);
            }
            Event::End(_) => {
                each(path.get(1..).unwrap_or_default(), std::mem::take(&mut text));
                path.pop();
            }
            Event::Eof if path.is_empty() => return Ok(()),
            Event::Eof => return Err(format!("it ends inside <{}>", path.join("/"))),
            _ => {}
        }
    }
}

/// # Errors
/// `Corrupt` for what is no listing.
pub fn listing(xml: &str) -> Result<Page> {
    let bad = |why: &str| Error::corrupt(format!("the store's listing cannot be read: {}", shown(why)));
    let mut page = Page::default();
    let (mut key, mut size, mut etag, mut modified) = (None, None, None, None);
    let (mut is_truncated, mut whole) = (false, true);
    let read = texts(xml, |path, text| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["Contents", "Key"] => key = Some(text),
            ["Contents", "Size"] => size = text.parse().ok().filter(|size| *size <= SIZE_MAX),
            ["Contents", "ETag"] => etag = Some(text),
            ["Contents", "LastModified"] => modified = Timestamp::parse(&text),
            ["Contents"] => match (key.take(), size.take(), etag.take(), modified.take()) {
                (Some(key), Some(size), Some(etag), Some(modified)) => {
                    page.objects.push(Listed { key, size, etag, modified });
                }
                _ => whole = false,
            },
            ["IsTruncated"] => is_truncated = text == "true",
            ["NextContinuationToken"] => page.next = Some(text),
            _ => {}
        }
    });
    read.map_err(|why| bad(&why))?;
    if !whole {
        return Err(bad("an object lacks key, size, ETag or time"));
    }
    match (is_truncated, &page.next) {
        (true, None) => Err(bad("it is cut off and does not say how it goes on")),
        (false, _) => Ok(Page { next: None, ..page }),
        (true, Some(_)) => Ok(page),
    }
}

/// What an error answer says; nothing where it is no XML.
pub fn fault(xml: &str) -> Fault {
    let mut fault = Fault::default();
    let read = texts(xml, |path, text| match path {
        [name] if name == "Code" => fault.code = shown(&text),
        [name] if name == "Message" => fault.message = shown(&text),
        _ => {}
    });
    if read.is_ok() { fault } else { Fault::default() }
}

/// The text of one element below the root.
pub fn element(xml: &str, name: &str) -> Option<String> {
    let mut found = None;
    let read = texts(xml, |path, text| {
        if path.last().is_some_and(|last| last == name) {
            found = Some(text);
        }
    });
    read.ok().and(found).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
        <Name>b</Name><IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b</NextContinuationToken>\
        <Contents><Key>p/x &lt;1&gt;</Key><LastModified>2026-11-21T06:58:22.000Z</LastModified>\
        <ETag>&quot;0a&quot;</ETag><Size>156</Size><Owner><ID>1</ID></Owner></Contents></ListBucketResult>";

    #[test]
    fn elements_without_end_and_sizes_without_measure_are_refused_at_once() {
        let deep = "<a>".repeat(1 << 20);
        for text in [deep.clone(), format!("{deep}{}", "</a>".repeat(1 << 20))] {
            let error = listing(&text).unwrap_err().to_string();
            assert!(error.contains("lie inside each other") && error.len() < 500, "{error}");
            assert_eq!((fault(&text), element(&text, "a")), (Fault::default(), None));
        }
        let large = LIST.replace("156", &u64::MAX.to_string());
        assert!(listing(&large).unwrap_err().to_string().contains("lacks key, size"));
        let long =
            format!("<Error><Code>{0}</Code><Message>\u{1b}[31m{0}</Message></Error>", "x".repeat(9999));
        let said = fault(&long);
        assert!(
            said.code.len() == SHOWN_MAX
                && said.message.len() == SHOWN_MAX
                && !said.message.contains('\u{1b}')
        );
    }

    #[test]
    fn listing_is_read_with_what_comes_next() {
        let page = listing(LIST).unwrap();
        let modified = Timestamp::parse("2026-11-21T06:58:22Z").unwrap();
        let object = Listed { key: "p/x <1>".into(), size: 156, etag: "\"0a\"".into(), modified };
        assert_eq!((page.objects, page.next.as_deref()), (vec![object], Some("a&b")));
        let last = listing(&LIST.replace("true", "false")).unwrap();
        assert_eq!(last.next, None);
    }

    #[test]
    fn damaged_listing_is_an_error_and_never_a_shorter_one() {
        for (damaged, why) in [
            (&LIST[..LIST.len() - 30], "ends inside"),
            (&LIST.replace("<Size>156</Size>", ""), "lacks key, size"),
            (&LIST.replace("156", "many"), "lacks key, size"),
            (&LIST.replace("<NextContinuationToken>a&amp;b</NextContinuationToken>", ""), "how it goes on"),
            (&LIST.replace("</Key>", "</Kay>"), "cannot be read"),
        ] {
            let error = listing(damaged).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn fault_is_code_and_message_or_nothing() {
        let xml = "<Error><Code>NoSuchKey</Code><Message>gone</Message><Key>x</Key></Error>";
        assert_eq!(fault(xml), Fault { code: "NoSuchKey".into(), message: "gone".into() });
        assert_eq!(fault("<html>"), Fault::default());
        assert_eq!(fault(""), Fault::default());
    }

    #[test]
    fn one_element_is_found() {
        let xml = "<R><UploadId>u1</UploadId></R>";
        assert_eq!((element(xml, "UploadId").as_deref(), element(xml, "Key")), (Some("u1"), None));
    }
}
