//! A self-signed certificate: P-256, for the names and addresses of this host.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use zeroize::Zeroizing;

pub(super) struct Made {
    pub(super) cert_pem: String,
    pub(super) key_pem: Zeroizing<String>,
    /// A day, such as 2029-02-27.
    pub(super) until: String,
}

/// Makes a key and a certificate for it.
pub(super) fn make(names: &[String]) -> Result<Made, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    let name = names.first().map_or("clawsec", String::as_str);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let end = now.saturating_add(Span::new().days(VALID_DAYS));
    // A day early: a client's clock may be behind.
    let start = now.saturating_sub(Span::new().days(1));
    let part = |number: i8| u8::try_from(number).unwrap_or(1);
    let day = |at: &Zoned| rcgen::date_time_ymd(at.year().into(), part(at.month()), part(at.day()));
    (params.not_before, params.not_after) = (day(&start), day(&end));
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok(Made {
        cert_pem: cert.pem(),
        key_pem: Zeroizing::new(key.serialize_pem()),
        until: end.date().to_string(),
    })
}

/// The longest that Apple's clients accept of a certificate.
const VALID_DAYS: i64 = 825;
