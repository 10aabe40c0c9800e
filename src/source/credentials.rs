//! User names and passwords for registries and servers, in the form of Docker's `config.json`.

use std::{collections::HashMap, fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::error::SourceError;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Reads the login for a host with its port; `None` if there is no file, or no such host in it. Without TLS
/// (`is_open`) everybody on the way could read a password: only hosts that the file names with `http://` get theirs.
pub(super) fn login(file: &Path, host: &str, is_open: bool) -> Result<Option<Login>, SourceError> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    // No part of the file may be in the error.
    let failed = |why: &str| SourceError::Failed(format!("images.credentials, {}: {why}", file.display()));
    let text = fs::read(file).map_err(|error| failed(&error.kind().to_string()))?;
    let config: Config =
        serde_json::from_slice(&text).map_err(|_| failed("not of the form of Docker's config.json"))?;
    let host_of = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        key.split('/').next().unwrap_or_default().to_owned()
    };
    let is_it = |key: &str| host_of(key) == host && (!is_open || key.starts_with("http://"));
    let Some((_, auth)) = config.auths.iter().find(|(key, _)| is_it(key)) else { return Ok(None) };
    if auth.auth.is_empty() {
        return Ok(Some(Login { user: auth.username.clone(), password: auth.password.clone() }));
    }
    let decoded = BASE64_STANDARD.decode(&auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let login = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (user, password) = login.ok_or_else(|| failed("auth is not user:password in base64"))?;
    Ok(Some(Login { user: user.to_owned(), password: password.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_by_host_and_errors_show_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        fs::write(
            &file,
            r#"{"auths":{"https://a:5000/v2/":{"auth":"dTpwOnE="},"b":{"username":"x","password":"y"}}}"#,
        )
        .unwrap();
        let of = |host: &str, is_open| login(&file, host, is_open).unwrap();
        let login = |host: &str| of(host, false).map(|login| (login.user, login.password));
        assert_eq!(login("a:5000"), Some(("u".to_owned(), "p:q".to_owned())));
        assert_eq!(login("b"), Some(("x".to_owned(), "y".to_owned())));
        assert_eq!(login("a"), None);
        assert!(of("a:5000", true).is_none() && of("b", true).is_none(), "a password without TLS");
        fs::write(&file, r#"{"auths":{"http://a":{"username":"x","password":"y"}}}"#).unwrap();
        assert!(of("a", true).is_some());
        fs::write(&file, r#"{"auths":{"a":{"auth":"secret!"}}}"#).unwrap();
        let error = super::login(&file, "a", false).map(drop).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(super::login(Path::new(""), "a", false).unwrap().is_none());
    }
}
