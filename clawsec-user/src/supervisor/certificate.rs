//! What is read of a certificate: when it begins and ends, and its fingerprint.
//!
//! rustls judges certificates; it does not say these dates. The file is root's own, so that a
//! walk over the outermost DER elements is enough (RFC 5280, 4.1).

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// SHA-256 of the first certificate in a PEM text, as clients pin it: `AB:CD:…`.
pub fn fingerprint(pem: &str) -> Option<String> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let digest = digest::digest(&digest::SHA256, &certificate);
    let bytes = digest.as_ref().iter();
    let pairs: Vec<String> = bytes.map(|byte| format!("{byte:02X}")).collect();
    Some(pairs.join(":"))
}

/// Whether the issuer of the first certificate in a PEM text is its own subject.
pub fn is_self_signed(pem: &str) -> Option<bool> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate, _) = element(&certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    if rest.first() == Some(&EXPLICIT_VERSION) {
        rest = element(rest)?.2;
    }
    // serialNumber, signature; then issuer, validity, subject.
    for _ in 0..2 {
        rest = element(rest)?.2;
    }
    let (_, issuer, rest) = element(rest)?;
    let (_, subject, _) = element(element(rest)?.2)?;
    Some(issuer == subject)
}

/// When a certificate is valid, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

/// `notAfter` of the first certificate in a PEM text, in seconds since the Unix epoch.
pub(super) fn not_after(pem: &str) -> Option<i64> {
    Some(validity(pem)?.not_after)
}

/// Reads when the first certificate in a PEM text is valid.
pub fn validity(pem: &str) -> Option<Validity> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate, _) = element(&certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // [0] version (left out in version 1), serialNumber, signature, issuer, then validity.
    if rest.first() == Some(&EXPLICIT_VERSION) {
        rest = element(rest)?.2;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (not_before, after_not_before) = time(validity)?;
    let (not_after, _) = time(after_not_before)?;
    Some(Validity {
        not_before,
        not_after,
    })
}

const EXPLICIT_VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// One element: its tag, its contents, what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = digits.iter().try_fold(0_usize, |sum, digit| {
            sum.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    let (contents, after) = rest.split_at_checked(length)?;
    Some((tag, contents, after))
}

/// One time, and what comes after it.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (kind, text, after) = element(bytes)?;
    Some((seconds(kind, std::str::from_utf8(text).ok()?)?, after))
}

/// `YYMMDDHHMMSSZ` until 2049, `YYYYMMDDHHMMSSZ` after it.
fn seconds(kind: u8, text: &str) -> Option<i64> {
    let digits = text.strip_suffix('Z')?;
    let full = match kind {
        UTC_TIME => {
            let year: u8 = digits.get(..2)?.parse().ok()?;
            format!("{}{digits}", if year < 50 { "20" } else { "19" })
        }
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &full).ok()?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        for (year, expected) in [(2031, 1_924_992_000), (2075, 3_313_526_400)] {
            let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(2025, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let made = params.self_signed(&key).unwrap();
            let expected = Validity {
                not_before: 1_735_689_600,
                not_after: expected,
            };
            assert_eq!(validity(&made.pem()), Some(expected), "{year}");
            assert_eq!(is_self_signed(&made.pem()), Some(true));
        }
    }

    #[test]
    fn the_fingerprint_is_that_of_the_certificate() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let digest = digest::digest(&digest::SHA256, made.cert.der());
        let shown = fingerprint(&made.cert.pem()).unwrap();
        assert_eq!(shown.len(), 32 * 3 - 1);
        assert!(shown.starts_with(&format!("{:02X}:", digest.as_ref()[0])));
        assert_eq!(fingerprint("none"), None);
    }

    #[test]
    fn what_is_cut_short_has_no_end() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let made = params.self_signed(&key).unwrap();
        let der = made.der();
        for length in 0..der.len() {
            let cut = &der[..length];
            assert!(element(cut).is_none(), "{length}");
        }
        assert_eq!(not_after("no certificate"), None);
    }
}
