//! Where keys come from, the first of these that is there:
//!
//! ```text
//! environment -> web identity (a token file and a role) -> profile in a file -> container service -> instance service
//! ```
//!
//! Keys that end are asked for again before they do; while that fails, those at hand serve until their end. Sources: AWS
//! SDKs and Tools Reference Guide, "Standardized credential providers"; EC2 user guide, "Use IMDSv2".

use std::fmt;
use std::path::PathBuf;

use super::answer;
use super::http::Http;
use super::sign::{Keys, encode};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;
use crate::types::Timestamp;

/// How long before their end keys are asked for anew.
const REFRESH_MS: i64 = 5 * 60 * 1000;

/// What the environment and its files say. Every field that is there is a source.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sources {
    pub environment: Option<Keys>,
    pub web_identity: Option<WebIdentity>,
    pub profile: Option<Keys>,
    pub container: Option<Container>,
    /// Address of the instance service.
    pub instance: Option<String>,
}

/// A role that a token in a file may take.
#[derive(Clone, PartialEq, Eq)]
pub struct WebIdentity {
    pub token_file: PathBuf,
    pub role_arn: String,
    pub session: String,
    /// Address of the token service.
    pub service: String,
}

/// A service beside the container that gives keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Container {
    pub url: String,
    pub token: Option<String>,
    pub token_file: Option<PathBuf>,
}

/// Names of the sources, and nothing they hold.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = [
            ("environment", self.environment.is_some()),
            ("web identity", self.web_identity.is_some()),
            ("profile", self.profile.is_some()),
            ("container", self.container.is_some()),
            ("instance", self.instance.is_some()),
        ];
        f.debug_list().entries(there.iter().filter(|(_, is)| *is).map(|(name, _)| name)).finish()
    }
}

#[derive(Clone)]
struct Got {
    keys: Keys,
    /// `None`: they last.
    ends: Option<Timestamp>,
}

/// Keys for one store, kept as long as they last.
pub struct Credentials {
    sources: Sources,
    // Guards the keys got last; held while others are asked for, so that one thread asks.
    got: Mutex<Option<Got>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sources.fmt(f)
    }
}

impl Credentials {
    pub fn new(sources: Sources) -> Credentials {
        Credentials { sources, got: Mutex::new(None) }
    }

    /// Keys that are good now.
    ///
    /// # Errors
    /// `Invalid` when no source has any; `Io` with the source that failed.
    pub fn keys(&self, http: &Http) -> Result<Keys> {
        let now = clock::now().0;
        let mut got = self.got.lock();
        if let Some(got) = got.as_ref().filter(|got| got.ends.is_none_or(|end| end.0 - REFRESH_MS > now)) {
            return Ok(got.keys.clone());
        }
        match self.sources.get(http) {
            Ok(new) => Ok(got.insert(new).keys.clone()),
            Err(error) => {
                let old = got.as_ref().filter(|got| got.ends.is_some_and(|end| end.0 > now));
                old.map(|got| got.keys.clone()).ok_or(error)
            }
        }
    }

    /// The store did not take the keys: the next request asks for others.
    pub fn refused(&self) {
        *self.got.lock() = None;
    }
}

impl Sources {
    fn get(&self, http: &Http) -> Result<Got> {
        let lasting = |keys: &Keys| Got { keys: keys.clone(), ends: None };
        if let Some(keys) = &self.environment {
            return Ok(lasting(keys));
        }
        if let Some(role) = &self.web_identity {
            return role.get(http).map_err(|e| e.while_doing("get credentials by web identity"));
        }
        if let Some(keys) = &self.profile {
            return Ok(lasting(keys));
        }
        if let Some(container) = &self.container {
            return container.get(http).map_err(|e| e.while_doing("get the container's credentials"));
        }
        let none = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with a shared \
                    credentials file, or give this machine a role";
        match &self.instance {
            Some(base) => from_instance(http, base).map_err(|error| {
                // Most machines are no instance: what helps is to say what could be set.
                Error::invalid(format!("{none} ({error})"))
            }),
            None => Err(Error::invalid(none)),
        }
    }
}

impl WebIdentity {
    fn get(&self, http: &Http) -> Result<Got> {
        let token = read_token(&self.token_file)?;
        let url = format!(
            "{}/?Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={}&RoleSessionName={}&WebIdentityToken={}",
            self.service,
            encode(&self.role_arn, ""),
            encode(&self.session, ""),
            encode(&token, "")
        );
        let xml = http.fetch(&url)?;
        let part = |name| answer::element(&xml, name);
        got(part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken"), part("Expiration"))
    }
}

impl Container {
    fn get(&self, http: &Http) -> Result<Got> {
        let token = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => self.token.clone(),
        };
        let headers: Vec<_> = token.into_iter().map(|token| ("authorization", token)).collect();
        from_json(&http.nearby("GET", &self.url, &headers)?)
    }
}

fn from_instance(http: &Http, base: &str) -> Result<Got> {
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "21600".to_owned())];
    let token = http.nearby("PUT", &format!("{base}/latest/api/token"), &ttl)?;
    let token = [("x-aws-ec2-metadata-token", token)];
    let roles = format!("{base}/latest/meta-data/iam/security-credentials/");
    let role = http.nearby("GET", &roles, &token)?;
    let role = role.lines().next().unwrap_or_default().trim();
    if role.is_empty() {
        return Err(Error::not_found("this instance has no role"));
    }
    from_json(&http.nearby("GET", &format!("{roles}{}", encode(role, "")), &token)?)
}

fn read_token(path: &PathBuf) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read the token in", path, e))?;
    Ok(text.trim().to_owned())
}

fn from_json(text: &str) -> Result<Got> {
    let json: serde_json::Value = serde_json::from_str(text)
        .map_err(|e| Error::new(Kind::Io, format!("the answer is no JSON: {e}")))?;
    let part = |name: &str| json.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    got(part("AccessKeyId"), part("SecretAccessKey"), part("Token"), part("Expiration"))
}

/// Whether an answer of a service would be taken.
///
/// # Errors
/// `Io` with what is wrong.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_json(text: &str) -> Result<()> {
    from_json(text).map(drop)
}

fn got(
    access: Option<String>,
    secret: Option<String>,
    token: Option<String>,
    ends: Option<String>,
) -> Result<Got> {
    let (Some(access), Some(secret)) = (access, secret) else {
        return Err(Error::new(Kind::Io, "the answer holds no keys"));
    };
    let ends = match ends {
        None => None,
        Some(text) => Some(Timestamp::parse(&text).ok_or_else(|| {
            // Not what it says: a service that mixes things up may say a key there.
            Error::new(Kind::Io, "the answer says that the keys end at what is no time")
        })?),
    };
    Ok(Got { keys: Keys { access, secret, token }, ends })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(access: &str) -> Keys {
        Keys { access: access.into(), secret: "hush".into(), token: None }
    }

    #[test]
    fn first_source_wins_and_none_says_what_to_set() {
        let http = Http::new(None).unwrap();
        let both = Sources { environment: Some(keys("E")), profile: Some(keys("P")), ..Sources::default() };
        assert_eq!(Credentials::new(both.clone()).keys(&http).unwrap().access, "E");
        assert_eq!(format!("{both:?}"), "[\"environment\", \"profile\"]");
        let error = Credentials::new(Sources::default()).keys(&http).unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn answer_of_a_service_is_read_or_refused_without_its_secret() {
        let json = |end: &str| {
            format!(
                "{{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"hush\",\"Token\":\"t\",\"Expiration\":\"{end}\"}}"
            )
        };
        let got = from_json(&json("2030-01-01T00:00:00Z")).unwrap();
        assert_eq!((got.keys.access.as_str(), got.keys.token.as_deref()), ("A", Some("t")));
        assert_eq!(got.ends, Timestamp::parse("2030-01-01T00:00:00Z"));
        for text in ["", "{}", &json("soon"), &json("hush")] {
            let error = from_json(text).map(|_| ()).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
