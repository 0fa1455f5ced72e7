//! What the standard `AWS_*` variables and files say of a store: credentials, region, endpoint, certificates.
//!
//! The variables are taken when the library is loaded, the files when a store is first reached. Source: AWS SDKs and
//! Tools Reference Guide, "Environment variables" and "Shared config and credentials files".

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::replica::s3::{Container, Keys, Options, Sources, WebIdentity};

/// Where a container's service listens, when only a path is given.
const CONTAINER_SERVICE: &str = "http://169.254.170.2";
const INSTANCE_SERVICE: &str = "http://169.254.169.254";
/// What a profile may hold that needs a program or a log-in of a person.
const UNSUPPORTED: [&str; 4] = ["credential_process", "sso_session", "sso_start_url", "source_profile"];
/// The variables that matter here.
#[derive(Clone, Default)]
pub struct Aws {
    variables: HashMap<String, OsString>,
}

/// Values may be secrets.
impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// A section of the shared files.
pub(crate) type Section = HashMap<String, String>;

impl Aws {
    /// Keeps `name` if it is one of those that matter. An empty one says nothing.
    pub fn take(&mut self, name: &OsStr, value: &OsStr) {
        let Some(name) = name.to_str() else { return };
        if (name.starts_with("AWS_") || name == "HOME") && !value.is_empty() {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.variables.get(name)?.to_str().map(str::to_owned)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(name).map(PathBuf::from)
    }

    /// How a store is reached, by what was said, the variables and the files, in this order.
    ///
    /// # Errors
    /// `Invalid` for a profile that is not there, or needs what is not built; `Io` for a file that cannot be read.
    pub fn access(&self, given: Options) -> Result<(Options, Sources)> {
        let profile = self.profile()?;
        let of_profile = |name: &str| profile.get(name).cloned();
        let variables = Options {
            endpoint: self.text("AWS_ENDPOINT_URL_S3").or_else(|| self.text("AWS_ENDPOINT_URL")),
            region: self.text("AWS_REGION").or_else(|| self.text("AWS_DEFAULT_REGION")),
            ca_bundle: self.path("AWS_CA_BUNDLE"),
            ..Options::default()
        };
        let files = Options {
            endpoint: of_profile("endpoint_url"),
            region: of_profile("region"),
            ca_bundle: of_profile("ca_bundle").map(PathBuf::from),
            ..Options::default()
        };
        let options = given.or(&variables).or(&files);
        let sources = self.sources(&profile, options.region.as_deref())?;
        Ok((options, sources))
    }

    fn sources(&self, profile: &Section, region: Option<&str>) -> Result<Sources> {
        let keys = |access: Option<String>, secret: Option<String>, token: Option<String>| {
            Some(Keys { access: access?, secret: secret?, token })
        };
        let of_profile = |name: &str| profile.get(name).cloned();
        let sources = Sources {
            environment: keys(
                self.text("AWS_ACCESS_KEY_ID"),
                self.text("AWS_SECRET_ACCESS_KEY"),
                self.text("AWS_SESSION_TOKEN"),
            ),
            web_identity: self.web_identity(profile, region),
            profile: keys(
                of_profile("aws_access_key_id"),
                of_profile("aws_secret_access_key"),
                of_profile("aws_session_token"),
            ),
            container: self.container(),
            instance: self.instance(),
        };
        let none =
            sources.environment.is_none() && sources.web_identity.is_none() && sources.profile.is_none();
        if let Some(name) = UNSUPPORTED.iter().find(|name| none && profile.contains_key(**name)) {
            return Err(Error::invalid(format!(
                "profile {} gets its credentials by {name}, which is not supported; allowed: aws_access_key_id with \
                 aws_secret_access_key, or role_arn with web_identity_token_file",
                self.profile_name()
            )));
        }
        Ok(sources)
    }

    fn web_identity(&self, profile: &Section, region: Option<&str>) -> Option<WebIdentity> {
        let of_profile = |name: &str| profile.get(name).cloned();
        let file = self.path("AWS_WEB_IDENTITY_TOKEN_FILE");
        let role_arn = self.text("AWS_ROLE_ARN").or_else(|| of_profile("role_arn"))?;
        let service = self.text("AWS_ENDPOINT_URL_STS").or_else(|| self.text("AWS_ENDPOINT_URL"));
        Some(WebIdentity {
            token_file: file.or_else(|| of_profile("web_identity_token_file").map(PathBuf::from))?,
            role_arn,
            session: self.text("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "sqlitereplicate".to_owned()),
            service: service.unwrap_or_else(|| match region {
                Some(region) => format!("https://sts.{region}.amazonaws.com"),
                None => "https://sts.amazonaws.com".to_owned(),
            }),
        })
    }

    fn container(&self) -> Option<Container> {
        let relative = self.text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let url = relative.map(|path| format!("{CONTAINER_SERVICE}{path}"));
        Some(Container {
            url: url.or_else(|| self.text("AWS_CONTAINER_CREDENTIALS_FULL_URI"))?,
            token: self.text("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
            token_file: self.path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        })
    }

    fn instance(&self) -> Option<String> {
        let disabled =
            self.text("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let service = self.text("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let service = service.unwrap_or_else(|| INSTANCE_SERVICE.to_owned());
        (!disabled).then(|| service.trim_end_matches('/').to_owned())
    }

    fn profile_name(&self) -> String {
        self.text("AWS_PROFILE")
            .or_else(|| self.text("AWS_DEFAULT_PROFILE"))
            .unwrap_or_else(|| "default".to_owned())
    }

    /// The profile as both files have it; the credentials file is the stronger.
    fn profile(&self) -> Result<Section> {
        let name = self.profile_name();
        let file = |variable: &str, own: &str| {
            let home = self.path("HOME").map(|home| home.join(".aws").join(own));
            self.path(variable).or(home)
        };
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let config = file("AWS_CONFIG_FILE", "config");
        let long_name = if name == "default" { name.clone() } else { format!("profile {name}") };
        let mut section = Section::new();
        let mut found = false;
        for (path, header) in [(&config, &long_name), (&credentials, &name)] {
            if let Some(more) = path.as_deref().map(|path| read(path, header)).transpose()?.flatten() {
                section.extend(more);
                found = true;
            }
        }
        if !found && self.variables.contains_key("AWS_PROFILE") {
            let shown = |path: Option<PathBuf>| path.map_or("-".into(), |path| path.display().to_string());
            return Err(Error::invalid(format!(
                "AWS_PROFILE='{name}' names no profile of {} or {}",
                shown(credentials),
                shown(config)
            )));
        }
        Ok(section)
    }
}

/// One section of a file; `None` where there is no such file or section.
fn read(path: &Path, header: &str) -> Result<Option<Section>> {
    let text = match std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e)) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        other => other?,
    };
    Ok(section(&text, header))
}

/// The section of that name; `None` where there is none.
pub(crate) fn section(text: &str, header: &str) -> Option<Section> {
    let mut section: Option<Section> = None;
    let mut inside = false;
    for line in text.lines() {
        // What is indented belongs to the setting above it, and none of those is ours.
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) || is_nested {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            inside = name.split_whitespace().eq(header.split_whitespace());
            if inside {
                section.get_or_insert_default();
            }
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            section.get_or_insert_default().insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn aws(variables: &[(&str, &str)]) -> Aws {
        let mut aws = Aws::default();
        variables.iter().for_each(|(name, value)| aws.take(name.as_ref(), value.as_ref()));
        aws
    }

    fn files(folder: &Folder) -> [(String, String); 2] {
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let credentials = "[default]\naws_access_key_id = D\naws_secret_access_key=hush\n# x\n[work]\n\
                           aws_access_key_id=W\naws_secret_access_key=hush # mine\naws_session_token=t\n";
        let config = "[default]\nregion = eu-1\ns3 =\n  endpoint_url = nested\n[profile work]\nregion=eu-2\n\
                      endpoint_url=http://h\n[profile login]\nsso_session=x\n";
        [
            ("AWS_SHARED_CREDENTIALS_FILE".into(), write("credentials", credentials)),
            ("AWS_CONFIG_FILE".into(), write("config", config)),
        ]
    }

    fn with_files(folder: &Folder, more: &[(&str, &str)]) -> Result<(Options, Sources)> {
        let files = files(folder);
        let mut all: Vec<(&str, &str)> = files.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        all.extend(more);
        aws(&all).access(Options::default())
    }

    #[test]
    fn profiles_of_both_files_are_read() {
        let folder = Folder::new();
        let (options, sources) = with_files(&folder, &[]).unwrap();
        assert_eq!((options.region.as_deref(), options.endpoint), (Some("eu-1"), None));
        assert_eq!(sources.profile.unwrap().access, "D");
        let (options, sources) = with_files(&folder, &[("AWS_PROFILE", "work")]).unwrap();
        assert_eq!(
            (options.region.as_deref(), options.endpoint.as_deref()),
            (Some("eu-2"), Some("http://h"))
        );
        let keys = sources.profile.unwrap();
        assert_eq!((keys.secret.as_str(), keys.token.as_deref()), ("hush", Some("t")));
    }

    #[test]
    fn profile_that_is_not_there_or_not_supported_is_named() {
        let folder = Folder::new();
        let error = with_files(&folder, &[("AWS_PROFILE", "none")]).unwrap_err().to_string();
        assert!(error.starts_with("AWS_PROFILE='none' names no profile of "), "{error}");
        let error = with_files(&folder, &[("AWS_PROFILE", "login")]).unwrap_err().to_string();
        assert!(error.contains("by sso_session, which is not supported"), "{error}");
        let keys = [("AWS_PROFILE", "login"), ("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "hush")];
        assert!(with_files(&folder, &keys).is_ok(), "the environment is stronger");
    }

    #[test]
    fn what_was_said_is_stronger_than_the_environment() {
        let variables = [
            ("AWS_REGION", "r"),
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_ENDPOINT_URL_S3", "http://s3"),
            ("AWS_CA_BUNDLE", "/ca.pem"),
        ];
        let (options, _) = aws(&variables).access(Options::default()).unwrap();
        assert_eq!((options.region.as_deref(), options.endpoint.as_deref()), (Some("r"), Some("http://s3")));
        assert_eq!(options.ca_bundle.as_deref(), Some(Path::new("/ca.pem")));
        let given = Options {
            endpoint: Some("http://own".into()),
            region: Some("mine".into()),
            ..Options::default()
        };
        let (options, _) = aws(&variables).access(given).unwrap();
        assert_eq!(
            (options.region.as_deref(), options.endpoint.as_deref()),
            (Some("mine"), Some("http://own"))
        );
    }

    #[test]
    fn roles_come_from_their_variables() {
        let variables = [
            ("AWS_ROLE_ARN", "arn:x"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
            ("AWS_REGION", "eu-1"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/role"),
            ("AWS_EC2_METADATA_DISABLED", "TRUE"),
        ];
        let (_, sources) = aws(&variables).access(Options::default()).unwrap();
        assert_eq!(sources.web_identity.unwrap().service, "https://sts.eu-1.amazonaws.com");
        assert_eq!(sources.container.unwrap().url, "http://169.254.170.2/role");
        assert_eq!(sources.instance, None);
        let keys = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_SESSION_TOKEN", "")];
        assert_eq!(aws(&keys).access(Options::default()).unwrap().1.environment.unwrap().token, None);
        assert!(!format!("{:?}", aws(&keys)).contains("hush"));
    }
}
