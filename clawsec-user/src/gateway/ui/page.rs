//! The sign-in page: one small page of clawsec's own, without a script or anything from elsewhere.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::{SIGN_IN, SIGN_OUT};

/// What the page is for this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows<'a> {
    /// Asks for a key; `again` are the words of what went wrong before.
    Form {
        again: Option<&'a str>,
        next: &'a str,
    },
    SignedIn {
        id: &'a str,
    },
    SignedOut,
}

/// How soon the page asks for itself again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refresh {
    Never,
    /// A link on another site brought no `SameSite=Strict` cookie along; a page of this host does.
    AtOnce,
}

pub(super) fn render(shows: Shows<'_>, refresh: Refresh) -> String {
    let (title, body) = match shows {
        Shows::Form { again, next } => ("Sign in", form(again, next)),
        Shows::SignedIn { id } => ("Signed in", signed_in(id)),
        Shows::SignedOut => ("Signed out", SIGNED_OUT.to_owned()),
    };
    let refresh = match refresh {
        Refresh::Never => "",
        Refresh::AtOnce => "\n<meta http-equiv=\"refresh\" content=\"0\">",
    };
    // The body last: it holds what others wrote.
    include_str!("sign_in.html")
        .replace("{title}", title)
        .replace("{refresh}", refresh)
        .replace("{style}", STYLE)
        .replacen("{body}", &body, 1)
}

fn form(again: Option<&str>, next: &str) -> String {
    let again = again.map_or_else(String::new, |words| {
        format!("<p class=\"bad\" role=\"alert\">{}</p>\n", escaped(words))
    });
    format!(
        "<p>The gateway behind this page is for those who have a key.</p>\n{again}\
         <form method=\"post\" action=\"{SIGN_IN}\">\n\
         <input type=\"hidden\" name=\"next\" value=\"{}\">\n\
         <input type=\"text\" value=\"clawsec\" autocomplete=\"username\" hidden>\n\
         <label for=\"key\">Key</label>\n\
         <input id=\"key\" name=\"key\" type=\"password\" autocomplete=\"current-password\" \
         autocapitalize=\"off\" spellcheck=\"false\" required autofocus>\n\
         <button>Sign in</button>\n</form>\n\
         <p class=\"note\">This opens the pages for 12 hours. The Control UI asks for the same key once \
         more, as its gateway token (clawdbot: under Overview), and keeps it in this browser.</p>",
        escaped(next)
    )
}

fn signed_in(id: &str) -> String {
    format!(
        "<p>With the key <strong>{}</strong>.</p>\n\
         <a class=\"deed\" href=\"/\">Open the Control UI</a>\n\
         <form method=\"post\" action=\"{SIGN_OUT}\"><button class=\"quiet\">Sign out</button></form>\n\
         <p class=\"note\">Signing out also removes what the Control UI keeps in this browser.</p>",
        escaped(id)
    )
}

const SIGNED_OUT: &str = "<p>What the Control UI kept in this browser is removed.</p>\n\
    <a class=\"deed\" href=\"/\">Sign in again</a>";

const STYLE: &str = include_str!("sign_in.css");

/// Nothing from anywhere but this one style; forms to this host only; no frames around it.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'"
    )
});

pub(in crate::gateway) fn dress(headers: &mut HeaderMap) {
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert("content-security-policy", policy);
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        // With `no-referrer` browsers would write `Origin: null` into the form.
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_text_on_the_page() {
        let next = "/x?a=\"><script>alert(1)</script>&'{style}";
        let page = render(Shows::Form { again: None, next }, Refresh::Never);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&quot;&gt;&lt;script&gt;"), "{page}");
        assert_eq!(page.matches("prefers-color-scheme").count(), 1, "{page}");
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let page = render(Shows::SignedOut, Refresh::AtOnce);
        assert!(!page.contains("://") && !page.contains("url("), "{page}");
        assert!(!page.contains('{') || page.contains(STYLE), "{page}");
    }
}
