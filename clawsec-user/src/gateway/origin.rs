//! Which page a browser's request comes from, by what browsers alone can say and pages cannot.

use hyper::header::{HeaderMap, HeaderValue, ORIGIN};

use super::refusal::Refusal;
use crate::policy::{Denial, Reason};

/// Refuses upgrades that a page of another site made (CVE-2026-25253 and its kin).
pub(super) fn check_origin(
    headers: &HeaderMap,
    host: &str,
    allowed: &[String],
) -> Result<(), Refusal> {
    let Some(origin) = origin(headers)? else {
        return Ok(());
    };
    let listed = allowed
        .iter()
        .any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(&origin));
    if is_same(&origin, host) || listed {
        Ok(())
    } else {
        Err(denied("gateway.origins"))
    }
}

/// Refuses a form that was not on a page of this very host. Browsers send `Origin` with every
/// form, and newer ones `Sec-Fetch-Site`; a request without either is not a browser's.
pub(super) fn check_form(headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
    let origin = origin(headers)?;
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let same_origin = origin.as_deref().map(|origin| is_same(origin, host));
    let same_site = site.map(|site| site == b"same-origin");
    match (same_origin, same_site) {
        (None, None) | (Some(false), _) | (_, Some(false)) => Err(denied("gateway.ui")),
        _ => Ok(()),
    }
}

/// Whether the page says of itself that it has no origin, as a sandboxed one does.
pub(super) fn is_opaque(headers: &HeaderMap) -> bool {
    headers.get(ORIGIN).is_some_and(|origin| origin == "null")
}

/// The one `Origin`, in lower case.
fn origin(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Ok(None);
    };
    if origins.next().is_some() {
        return Err(Refusal::malformed("more than one Origin"));
    }
    let origin = origin
        .to_str()
        .map_err(|_not_ascii| denied("gateway.origins"))?;
    Ok(Some(origin.to_ascii_lowercase()))
}

fn is_same(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(scheme, authority)| {
        let port = if scheme == "https" { ":443" } else { ":80" };
        let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_owned();
        matches!(scheme, "https" | "http") && !host.is_empty() && bare(authority) == bare(host)
    })
}

fn denied(rule: &str) -> Refusal {
    Denial::new(Reason::OriginNotAllowed, rule).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_and_listed_origins_may_upgrade() {
        let rows = [
            (None, true),
            (Some("https://a.example:8443"), true),
            (Some("https://A.example:8443"), true),
            (Some("https://a.example"), false),
            (Some("https://a.example:8443.evil.example"), false),
            (Some("null"), false),
            (Some("https://evil.example"), false),
            (Some("https://ui.example"), true),
            (Some("file://a.example:8443"), false),
        ];
        for (origin, accepted) in rows {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_static(origin));
            }
            let allowed = ["https://ui.example".to_owned()];
            let checked = check_origin(&headers, "a.example:8443", &allowed);
            assert_eq!(checked.is_ok(), accepted, "{origin:?}");
        }
    }
}
