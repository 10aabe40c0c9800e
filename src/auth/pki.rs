//! A small PKI of one CA, for development and small sites.
//!
//! `init` creates `ca.pem`, `ca.key`, the agent's `server.pem` and `server.key`, and an admin's `admin.pem`
//! and `admin.key`; `issue` creates another client certificate; `revoke` puts one on `crl.pem`. Keys are
//! readable by their owner only. Nothing that exists is overwritten.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::role::Role;

/// Days that the CA is valid.
const CA_DAYS: i64 = 3650;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file already exists.
    #[error("{0} already exists and is not overwritten")]
    Exists(PathBuf),
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name can't stand in a certificate.
    #[error("{0}")]
    Name(String),
    /// The certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A folder of certificates.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
    trust_domain: String,
}

impl Pki {
    /// The folder `dir`, whose identities are of `trust_domain`.
    #[must_use]
    pub fn new(dir: PathBuf, trust_domain: String) -> Self {
        Self { dir, trust_domain }
    }

    /// Creates the CA, the agent's certificate for `names`, and an admin's, valid for `days`.
    pub fn init(&self, names: &[String], days: u32) -> Result<(), PkiError> {
        fs::create_dir_all(&self.dir).map_err(|source| PkiError::File { path: self.dir.clone(), source })?;
        let names = names.iter().map(|name| server_name(name)).collect::<Result<Vec<_>, _>>()?;
        let mut params = params("Zoneward CA", CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let mut params = self::params("Zoneward agent", days.into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.extend(names);
        let server = Pair::signed(params, &ca)?;
        let admin = Pair::signed(self.client(Role::Admin, "admin", days)?.1, &ca)?;
        let ca = Pair { key: ca.key().serialize_pem(), certificate: ca.pem() };
        // Everything is created before anything is written; the CA's files come last, as it signs the others.
        self.write(&[("server", server), ("admin", admin), ("ca", ca)])
    }

    /// Creates `<name>.pem` and `<name>.key` for a client, valid for `days`. Returns its identity.
    pub fn issue(&self, role: Role, name: &str, days: u32) -> Result<String, PkiError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(PkiError::Name(format!("{name:?}: 1 to 64 of letters, digits, - _ . are needed")));
        }
        if ["ca", "server", "crl"].contains(&name) {
            return Err(PkiError::Name(format!("{name:?} is the name of another file here")));
        }
        let (identity, params) = self.client(role, name, days)?;
        self.write(&[(name, Pair::signed(params, &self.ca()?)?)])?;
        Ok(identity)
    }

    /// Identity and certificate of a client.
    fn client(&self, role: Role, name: &str, days: u32) -> Result<(String, CertificateParams), PkiError> {
        let identity = format!("spiffe://{}/{role}/{name}", self.trust_domain);
        let mut params = params(name, days.into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let uri =
            identity.as_str().try_into().map_err(|_| PkiError::Name(format!("{identity:?} is not a URI")))?;
        params.subject_alt_names.push(SanType::URI(uri));
        Ok((identity, params))
    }

    /// Puts `<name>.pem` on the revocation list.
    pub fn revoke(&self, name: &str) -> Result<(), PkiError> {
        let path = self.dir.join(format!("{name}.pem"));
        let pem = fs::read(&path).map_err(|source| PkiError::File { path: path.clone(), source })?;
        let bad = |path: &Path, what: String| PkiError::Name(format!("{}: {what}", path.display()));
        let (_, der) =
            x509_parser::pem::parse_x509_pem(&pem).map_err(|error| bad(&path, error.to_string()))?;
        let cert = der.parse_x509().map_err(|error| bad(&path, error.to_string()))?;
        let mut revoked = self.revoked()?;
        revoked.push(cert.raw_serial().to_vec());
        revoked.sort();
        revoked.dedup();

        let entry = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: from_now(0),
            reason_code: Some(RevocationReason::Unspecified),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: from_now(0),
            next_update: from_now(CA_DAYS),
            crl_number: SerialNumber::from(revoked.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let text = list.signed_by(&self.ca()?)?.pem()?;
        let path = self.dir.join("crl.pem");
        let draft = path.with_extension("draft");
        let write = || fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path));
        write().map_err(|source| PkiError::File { path: path.clone(), source })
    }

    /// Serial numbers on the list so far.
    fn revoked(&self) -> Result<Vec<Vec<u8>>, PkiError> {
        let path = self.dir.join("crl.pem");
        let pem = match fs::read(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(PkiError::File { path, source }),
        };
        let bad = |what: String| PkiError::Name(format!("{}: {what}", path.display()));
        let (_, der) = x509_parser::pem::parse_x509_pem(&pem).map_err(|error| bad(error.to_string()))?;
        let (_, list) = x509_parser::parse_x509_crl(&der.contents).map_err(|error| bad(error.to_string()))?;
        Ok(list.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect())
    }

    fn ca(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            fs::read_to_string(&path).map_err(|source| PkiError::File { path, source })
        };
        let key = KeyPair::from_pem(&read("ca.key")?)?;
        Ok(Issuer::from_ca_cert_pem(&read("ca.pem")?, key)?)
    }

    /// Writes all files, or none. Existing files stay as they are.
    fn write(&self, pairs: &[(&str, Pair)]) -> Result<(), PkiError> {
        let files = pairs.iter().flat_map(|(name, pair)| {
            [(format!("{name}.key"), &pair.key, 0o600), (format!("{name}.pem"), &pair.certificate, 0o644)]
        });
        let mut made = Vec::new();
        for (name, text, mode) in files {
            let path = self.dir.join(name);
            if let Err(error) = write_new(&path, text, mode, &mut made) {
                for path in made {
                    let _ = fs::remove_file(path);
                }
                return Err(match error.kind() {
                    io::ErrorKind::AlreadyExists => PkiError::Exists(path),
                    _ => PkiError::File { path, source: error },
                });
            }
        }
        Ok(())
    }
}

/// Writes a new file; adds it to `made` as soon as it exists.
fn write_new(path: &Path, text: &str, mode: u32, made: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    made.push(path.to_owned());
    file.write_all(text.as_bytes())
}

/// A name that a client can look for: an address, or a DNS name of letters, digits and dashes (RFC 1123), whose first
/// label may be `*`.
fn server_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let bad = || PkiError::Name(format!("{name:?} is neither a DNS name nor an IP address"));
    let plain = name.strip_prefix("*.").unwrap_or(name);
    rustls_pki_types::DnsName::try_from(plain).map_err(|_| bad())?;
    let is_address_like =
        plain.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if is_address_like || plain.contains('_') || plain.ends_with('.') {
        return Err(bad());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

/// A key and its certificate, as PEM.
struct Pair {
    key: String,
    certificate: String,
}

impl Pair {
    /// A new key, with a certificate from the CA.
    fn signed(params: CertificateParams, ca: &Issuer<'_, KeyPair>) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, ca)?.pem();
        Ok(Self { key: key.serialize_pem(), certificate })
    }
}

/// Every certificate has a subject of its own: one that equals its issuer's is "self-signed" to
/// OpenSSL.
fn params(common_name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from_slice(&Uuid::new_v4().as_bytes()[..15]));
    params.use_authority_key_identifier_extension = true;
    // Clocks differ.
    params.not_before = from_now(-1);
    params.not_after = from_now(days);
    params
}

/// `days` from now.
fn from_now(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc().saturating_add(time::Duration::days(days))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_of_somebody_else_is_neither_overwritten_nor_removed() {
        for there in ["server.key", "admin.key", "admin.pem", "ca.pem"] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(there), "mine").unwrap();
            let pki = Pki::new(dir.path().to_owned(), "zoneward".to_owned());
            assert!(matches!(pki.init(&[], 30), Err(PkiError::Exists(path)) if path.ends_with(there)));
            assert_eq!(std::fs::read_to_string(dir.path().join(there)).unwrap(), "mine");
            assert_eq!(dir.path().read_dir().unwrap().count(), 1, "{there}");
        }
    }

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().join("certs"), "zoneward".to_owned());
        pki.init(&["localhost".to_owned(), "127.0.0.1".to_owned()], 30).unwrap();
        for (file, mode) in
            [("ca.key", 0o600), ("server.key", 0o600), ("admin.key", 0o600), ("ca.pem", 0o644)]
        {
            let meta = dir.path().join("certs").join(file).metadata().unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, mode, "{file}");
        }
        assert!(matches!(pki.init(&[], 30), Err(PkiError::Exists(_))));
        assert_eq!(pki.issue(Role::Viewer, "eve", 1).unwrap(), "spiffe://zoneward/viewer/eve");
        assert!(matches!(pki.issue(Role::Viewer, "eve", 1), Err(PkiError::Exists(_))));
        for bad in ["", "../x", "a/b", "ca", "server", ".x"] {
            assert!(matches!(pki.issue(Role::Viewer, bad, 1), Err(PkiError::Name(_))), "{bad}");
        }
        pki.revoke("eve").unwrap();
        pki.revoke("admin").unwrap();
        assert_eq!(pki.revoked().unwrap().len(), 2);
    }
}
