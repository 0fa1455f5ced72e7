//! Requests over the wire, and what came back. One try each: who may repeat what is decided above.
//!
//! Source of the traps: HTTP libraries that repeat a request by themselves turn a put whose answer was lost into a
//! refusal. `ureq` repeats nothing and follows no redirect here.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use ureq::config::ConfigBuilder;
use ureq::http::{HeaderMap, Method, Request};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;
use ureq::{Agent, AsSendBody, Body, Proxy, SendBody};

use super::pace::Paced;
use super::payload::Payload;
use crate::error::{Error, Kind, Result};
use crate::types::Timestamp;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest silence of a store: some serialize contended conditional puts in steps of a second.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The start of an answer, which a hostile store may send byte by byte, and never be silent.
const RESPONSE_MAX: Duration = Duration::from_secs(60);
/// Connections that wait for their next request: one for each thread of a restore, and more than may upload.
pub const IDLE_MAX: usize = 16;
/// Services of the machine itself answer at once, or there are none.
const NEARBY_MAX: Duration = Duration::from_secs(2);
/// Longest answer that is read as a text: a page of a listing is below 1 MiB.
const TEXT_BYTES_MAX: u64 = 8 << 20;

/// Connections to one store, and to what gives credentials for it.
#[derive(Clone, Debug)]
pub struct Http {
    store: Agent,
    nearby: Agent,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    body: Body,
}

impl Http {
    /// `ca_bundle`: certificates in PEM to be trusted instead of the system's.
    ///
    /// # Errors
    /// `Invalid` with the path when it holds none; `NotFound`, `Io`.
    pub fn new(ca_bundle: Option<&Path>) -> Result<Http> {
        let roots = ca_bundle.map_or(Ok(RootCerts::PlatformVerifier), certificates)?;
        let store = plain()
            .user_agent("sqlitereplicate")
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .max_idle_connections(IDLE_MAX)
            .max_idle_connections_per_host(IDLE_MAX)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_recv_response(Some(RESPONSE_MAX))
            .timeout_per_read(Some(SILENCE_MAX))
            .timeout_per_write(Some(SILENCE_MAX))
            .build();
        let nearby = plain().proxy(None::<Proxy>).timeout_global(Some(NEARBY_MAX)).build();
        Ok(Http { store: store.into(), nearby: nearby.into() })
    }

    /// `within`: no longer than this, all in all.
    ///
    /// # Errors
    /// `Io` when no answer came: the store may have done what was asked.
    pub fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
        body: Payload<'_>,
        within: Option<Duration>,
    ) -> Result<Answer> {
        run(&self.store, method, url, headers, body, within)
    }

    /// A short text from a service of this machine.
    ///
    /// # Errors
    /// `Io` when no answer came, or not 200.
    pub fn nearby(&self, method: &str, url: &str, headers: &[(&str, String)]) -> Result<String> {
        text_of(run(&self.nearby, method, url, headers, Payload::Bytes(&[]), None)?, url)
    }

    /// A short text from a service on the network.
    ///
    /// # Errors
    /// As [`Http::nearby`].
    pub fn fetch(&self, url: &str) -> Result<String> {
        let named = url.split('?').next().unwrap_or(url);
        text_of(run(&self.store, "GET", url, &[], Payload::Bytes(&[]), None)?, named)
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The store's clock.
    pub fn date(&self) -> Option<Timestamp> {
        self.header("date").and_then(http_date)
    }

    /// The whole answer, which must be a text.
    ///
    /// # Errors
    /// `Io` when it breaks off or is too long.
    pub fn text(self) -> Result<String> {
        let mut bytes = Vec::new();
        let read = self.into_reader().take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|e| Error::new(Kind::Io, format!("the store's answer broke off: {e}")))?;
        if bytes.len() as u64 > TEXT_BYTES_MAX {
            return Err(Error::new(
                Kind::Io,
                format!("the store's answer is longer than {TEXT_BYTES_MAX} bytes"),
            ));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The body as it comes in.
    pub fn into_reader(self) -> impl Read + Send {
        Paced::new(self.body.into_reader())
    }
}

/// An agent that answers with whatever the server says.
fn plain() -> ConfigBuilder<AgentScope> {
    Agent::config_builder().http_status_as_error(false).max_redirects(0).max_redirects_will_error(false)
}

fn text_of(answer: Answer, named: &str) -> Result<String> {
    let status = answer.status;
    let text = answer.text()?;
    if status == 200 { Ok(text) } else { Err(Error::new(Kind::Io, format!("{named} answers {status}"))) }
}

fn run(
    agent: &Agent,
    method: &str,
    url: &str,
    headers: &[(&str, String)],
    mut body: Payload<'_>,
    within: Option<Duration>,
) -> Result<Answer> {
    let host = url.split('/').nth(2).unwrap_or(url);
    let method = Method::from_bytes(method.as_bytes()).expect("BUG: a method is a word");
    let mut request = Request::builder().method(method.clone()).uri(url);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let bad = |e: ureq::http::Error| Error::invalid(format!("cannot ask {host}: {e}"));
    let has_body = method == Method::PUT || method == Method::POST;
    let sent = if has_body {
        let request = request.header("content-length", body.len());
        if let Payload::Bytes(bytes) = body {
            agent.run(bounded(agent, request.body(bytes).map_err(bad)?, within))
        } else {
            let mut reader = body.reader()?;
            let request = request.body(SendBody::from_reader(&mut reader)).map_err(bad)?;
            agent.run(bounded(agent, request, within))
        }
    } else {
        agent.run(bounded(agent, request.body(()).map_err(bad)?, within))
    };
    let (parts, body) = sent.map_err(|error| unanswered(host, &error))?.into_parts();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

fn bounded<S: AsSendBody>(agent: &Agent, request: Request<S>, within: Option<Duration>) -> Request<S> {
    match within {
        Some(within) => agent.configure_request(request).timeout_global(Some(within)).build(),
        None => request,
    }
}

fn unanswered(host: &str, error: &ureq::Error) -> Error {
    let why = match error {
        ureq::Error::HostNotFound => "no such host".to_owned(),
        ureq::Error::ConnectionFailed => "it cannot be reached".to_owned(),
        ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => tls(&error.to_string()),
        other => {
            let text = other.to_string();
            if text.contains("certificate") { tls(&text) } else { text }
        }
    };
    Error::new(Kind::Io, format!("cannot ask {host}: {why}"))
}

fn tls(text: &str) -> String {
    format!("{text}; a private authority is named by AWS_CA_BUNDLE, SSL_CERT_FILE or replica_ca_bundle")
}

fn certificates(path: &Path) -> Result<RootCerts> {
    let pem = std::fs::read(path).map_err(|e| Error::io("read the certificates in", path, e))?;
    let found: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(Error::invalid(format!("{} holds no certificate in PEM", path.display())));
    }
    Ok(RootCerts::new_with_certs(&found))
}

/// `Fri, 24 May 2013 00:00:00 GMT` (RFC 9110 5.6.7).
pub fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut parts = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.find(month).filter(|at| at % 3 == 0 && month.len() == 3)? / 3 + 1;
    let is_gmt = parts.next() == Some("GMT") && parts.next().is_none();
    Timestamp::parse(&format!("{year}-{month:02}-{day}T{time}Z")).filter(|_| is_gmt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        let at = Timestamp::parse("2013-05-24T01:02:03Z");
        assert_eq!(http_date("Fri, 24 May 2013 01:02:03 GMT"), at);
        for text in ["", "Fri, 24 May 2013 01:02:03", "24 May 2013", "Fri, 24 anF 2013 01:02:03 GMT"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[test]
    fn bundle_without_a_certificate_is_refused_by_name() {
        let folder = crate::testing::Folder::new();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let error = Http::new(Some(&path)).unwrap_err();
        assert!(error.to_string().contains("ca.pem holds no certificate"), "{error}");
        let error = Http::new(Some(&folder.path().join("none"))).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn nobody_at_the_address_is_told_with_the_address() {
        let error = Http::new(None)
            .unwrap()
            .send("GET", "http://127.0.0.1:1/x?key=y", &[], Payload::Bytes(&[]), None)
            .map(|_| ());
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("cannot ask 127.0.0.1:1: ") && !text.contains("key"), "{text}");
    }
}
