//! What is kept of an authority: the account, the certificate with its key, and for whom it is.
//!
//! Invariant: a file is replaced whole, so that a crash leaves the old or the new one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use crate::config::AcmeConfig;
use crate::supervisor::certificate::{self, Validity};

/// For what a certificate is wanted, and from whom; beside the certificate, for what it was issued.
fn wanted(acme: &AcmeConfig) -> Value {
    json!({ "server": acme.server, "names": acme.names })
}

/// The account with this server, if there is one already.
pub(super) fn account(acme: &AcmeConfig) -> io::Result<Option<AccountCredentials>> {
    let path = acme.dir.join(ACCOUNT);
    let Some(mut kept) = read(&path)?.filter(|kept| kept["server"] == acme.server.as_str()) else {
        return Ok(None);
    };
    serde_json::from_value(kept["credentials"].take())
        .map(Some)
        .map_err(|error| damaged(&path, &error))
}

pub(super) fn keep_account(acme: &AcmeConfig, credentials: &AccountCredentials) -> io::Result<()> {
    let account = json!({ "server": acme.server, "credentials": credentials });
    replace(&acme.dir.join(ACCOUNT), account.to_string().as_bytes())
}

/// Keeps a chain and its key, and what they were issued for.
pub(super) fn keep_certificate(acme: &AcmeConfig, chain: &str, key: &str) -> io::Result<()> {
    replace(&acme.certificate(), format!("{chain}\n{key}").as_bytes())?;
    let issued = wanted(acme).to_string();
    replace(&acme.dir.join(ISSUED), issued.as_bytes())
}

/// How long what is wanted has been issued for; `None` if it has not been.
pub(super) fn validity(acme: &AcmeConfig) -> Option<Validity> {
    let issued = read(&acme.dir.join(ISSUED)).ok()??;
    let pem = fs::read_to_string(acme.certificate()).ok()?;
    (issued == wanted(acme)).then(|| certificate::validity(&pem))?
}

/// Makes the folder, and a certificate to begin with where there is none: TLS needs one before an
/// authority can be asked. Nobody trusts it, and it is replaced as soon as one is issued.
pub(in crate::supervisor) fn prepare(acme: &AcmeConfig) -> io::Result<()> {
    let path = acme.certificate();
    let within =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&acme.dir)
        .map_err(within)?;
    if path.try_exists().map_err(within)? {
        return Ok(());
    }
    let mut params = CertificateParams::new(acme.names.clone()).map_err(io::Error::other)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "clawsec waits for a certificate");
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let made = params.self_signed(&key).map_err(io::Error::other)?;
    let text = format!("{}\n{}", made.pem(), key.serialize_pem());
    replace(&path, text.as_bytes()).map_err(within)
}

fn read(path: &Path) -> io::Result<Option<Value>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| damaged(path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn damaged(path: &Path, error: &serde_json::Error) -> io::Error {
    let message = format!("{}: {error}; remove it to begin anew", path.display());
    io::Error::other(message)
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new: PathBuf = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

const ACCOUNT: &str = "account.json";
const ISSUED: &str = "issued.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AcmeChallenge;

    fn acme(dir: &Path) -> AcmeConfig {
        AcmeConfig {
            server: "https://authority.example.org/directory".to_owned(),
            ca: None,
            names: vec!["claw.example.org".to_owned()],
            contact: Vec::new(),
            challenge: AcmeChallenge::Http01,
            listen: Vec::new(),
            dir: dir.join("acme"),
        }
    }

    #[test]
    fn the_first_certificate_is_nobodys_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let acme = acme(dir.path());
        prepare(&acme).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&acme.dir), mode(&acme.certificate())), (0o700, 0o600));
        assert_eq!(validity(&acme), None, "it was not issued");
        let before = fs::read(acme.certificate()).unwrap();
        prepare(&acme).unwrap();
        assert_eq!(fs::read(acme.certificate()).unwrap(), before, "it stays");
    }

    #[test]
    fn what_was_issued_for_other_names_is_not_what_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let mut acme = acme(dir.path());
        prepare(&acme).unwrap();
        let pair = rcgen::generate_simple_self_signed(acme.names.clone()).unwrap();
        let key = pair.signing_key.serialize_pem();
        keep_certificate(&acme, &pair.cert.pem(), &key).unwrap();
        assert!(validity(&acme).is_some());
        acme.names.push("www.example.org".to_owned());
        assert_eq!(validity(&acme), None);
        acme.names.pop();
        acme.server.push('2');
        assert_eq!(validity(&acme), None);
    }

    #[test]
    fn a_damaged_account_names_its_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme(dir.path());
        prepare(&acme).unwrap();
        assert!(account(&acme).unwrap().is_none());
        fs::write(acme.dir.join(ACCOUNT), "{").unwrap();
        let told = account(&acme).err().unwrap().to_string();
        assert!(
            told.contains("account.json") && told.contains("remove it"),
            "{told}"
        );
    }
}
