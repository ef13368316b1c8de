//! The cookies of the sign-in page: sealed by clawsec, bound to a key, ended in time.
//!
//! Invariant: a seal is a claim, and no more than that. What it stands for is looked up again at
//! each request, so that a key that is removed, changed or expired takes its seals along.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{self, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{COOKIE, HeaderMap, HeaderValue};

use crate::policy::{KeyDigest, UnixSeconds};

/// How long a sign-in lasts.
pub(super) const LIFETIME_S: UnixSeconds = 12 * 60 * 60;

/// What a seal opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Opens {
    /// Pages and their assets; a cookie.
    Pages,
    /// A canvas page, its parts and its live reload; a part of a path, since browsers send no
    /// cookie for the parts of a page without origin.
    Canvas,
}

impl Opens {
    fn word(self) -> &'static str {
        match self {
            Self::Pages => "ui",
            Self::Canvas => "canvas",
        }
    }
}

/// The prefix makes browsers refuse such a cookie from another host or from plain HTTP.
const NAMES: [&str; 2] = ["__Host-clawsec-ui", "clawsec-ui"];

/// One sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct SignIn {
    /// Of the principal.
    pub(super) id: String,
    pub(super) key: KeyDigest,
    pub(super) nonce: [u8; 16],
    pub(super) expires: UnixSeconds,
}

impl SignIn {
    /// `None` when the system has no randomness.
    pub(super) fn new(id: &str, key: KeyDigest, now: UnixSeconds) -> Option<Self> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).ok()?;
        Some(Self {
            id: id.to_owned(),
            key,
            nonce,
            expires: now + LIFETIME_S,
        })
    }
}

/// Seals cookies, and remembers which sign-ins were ended. It lives as long as the process: a
/// reload keeps people signed in, a restart does not.
#[derive(Debug)]
pub(in crate::gateway) struct Seals(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` when the system had no randomness: nobody can sign in then.
    key: Option<hmac::Key>,
    /// Signed out before their time.
    ended: HashMap<[u8; 16], UnixSeconds>,
}

/// Ended sign-ins that are remembered at once; one more ends all of them.
const MAX_ENDED: usize = 4096;

impl Seals {
    pub(in crate::gateway) fn new() -> Self {
        Self(Mutex::new(State {
            key: fresh_key(),
            ended: HashMap::new(),
        }))
    }

    /// A cookie's value.
    pub(super) fn seal(&self, opens: Opens, sign_in: &SignIn) -> Option<String> {
        let state = self.state();
        let tag = hmac::sign(state.key.as_ref()?, &sealed_text(opens, sign_in));
        Some(format!(
            "{}.{}.{}.{}",
            sign_in.expires,
            URL_SAFE_NO_PAD.encode(sign_in.nonce),
            URL_SAFE_NO_PAD.encode(tag.as_ref()),
            // Last, since an id may hold a dot.
            sign_in.id
        ))
    }

    /// Opens a cookie that this process sealed, for a key that still is the one it was made for.
    pub(super) fn open(
        &self,
        opens: Opens,
        cookie: &str,
        keys_of: impl Fn(&str) -> Vec<KeyDigest>,
        now: UnixSeconds,
    ) -> Option<SignIn> {
        let mut parts = cookie.splitn(4, '.');
        let expires = parts.next()?.parse().ok()?;
        let nonce = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        let tag = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        let id = parts.next()?;
        let nonce: [u8; 16] = nonce.try_into().ok()?;
        let state = self.state();
        let seal = state.key.as_ref()?;
        let of = |key| SignIn {
            id: id.to_owned(),
            key,
            nonce,
            expires,
        };
        // In constant time, each.
        let is_sealed =
            |sign_in: &SignIn| hmac::verify(seal, &sealed_text(opens, sign_in), &tag).is_ok();
        let sign_in = keys_of(id).into_iter().map(of).find(is_sealed)?;
        let lives = now < expires && !state.ended.contains_key(&sign_in.nonce);
        lives.then_some(sign_in)
    }

    /// Ends a sign-in before its time, wherever its cookies are.
    pub(super) fn end(&self, sign_in: &SignIn, now: UnixSeconds) {
        let mut state = self.state();
        state.ended.retain(|_, expires| now < *expires);
        if state.ended.len() >= MAX_ENDED {
            // Forgetting one would let it live again.
            tracing::warn!("more sign-outs than are remembered: every sign-in ends");
            state.key = fresh_key();
            state.ended.clear();
            return;
        }
        state.ended.insert(sign_in.nonce, sign_in.expires);
    }

    /// Whether a sign-in that was opened earlier would still be one.
    pub(in crate::gateway) fn lives(&self, sign_in: &SignIn, now: UnixSeconds) -> bool {
        now < sign_in.expires && !self.state().ended.contains_key(&sign_in.nonce)
    }

    /// No code panics while it holds this lock; a poisoned one is still whole.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh_key() -> Option<hmac::Key> {
    hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()
}

fn sealed_text(opens: Opens, sign_in: &SignIn) -> Vec<u8> {
    let SignIn {
        id,
        key,
        nonce,
        expires,
    } = sign_in;
    let mut text = format!("clawsec {} {expires} ", opens.word()).into_bytes();
    text.extend_from_slice(nonce);
    text.extend_from_slice(&key.0);
    text.extend_from_slice(id.as_bytes());
    text
}

/// The value of the cookie, if the request brings one. Over TLS only the name counts that no plain
/// connection can set.
pub(super) fn presented(headers: &HeaderMap, over_tls: bool) -> Option<String> {
    let names = if over_tls { &NAMES[..1] } else { &NAMES[..] };
    let pairs = || headers.get_all(COOKIE).iter().flat_map(pairs);
    names.iter().find_map(|name| {
        pairs().find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    })
}

/// `Set-Cookie` for a sealed value; an empty one takes the cookie away.
pub(super) fn set(value: &str, secure: bool) -> Option<HeaderValue> {
    let [prefixed, plain] = NAMES;
    let (name, secure) = if secure {
        (prefixed, "; Secure")
    } else {
        (plain, "")
    };
    let age = if value.is_empty() { 0 } else { LIFETIME_S };
    let text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly{secure}; SameSite=Strict");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Takes clawsec's cookies out of what goes upstream.
pub(in crate::gateway) fn strip(headers: &mut HeaderMap) {
    let ours = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default().trim();
        NAMES.contains(&name)
    };
    let values: Vec<&HeaderValue> = headers.get_all(COOKIE).iter().collect();
    if !values.iter().any(|value| pairs(value).any(ours)) {
        return;
    }
    let others: Vec<&str> = values
        .iter()
        .flat_map(|value| pairs(value))
        .filter(|pair| !ours(pair))
        .collect();
    let others = HeaderValue::from_str(&others.join("; "));
    headers.remove(COOKIE);
    if let Ok(others) = others
        && !others.is_empty()
    {
        headers.insert(COOKIE, others);
    }
}

/// The pairs of a `Cookie` header; one that is not ASCII has none that is ours.
fn pairs(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(';')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyDigest = KeyDigest([7; 32]);

    fn known(id: &str) -> Vec<KeyDigest> {
        if id == "phone.1" {
            vec![KEY]
        } else {
            Vec::new()
        }
    }

    #[test]
    fn a_cookie_opens_what_it_was_sealed_for_and_no_longer() {
        let seals = Seals::new();
        let sign_in = SignIn::new("phone.1", KEY, 1000).unwrap();
        let sealed = seals.seal(Opens::Pages, &sign_in).unwrap();
        let open = |cookie: &str, now| seals.open(Opens::Pages, cookie, known, now);
        assert_eq!(open(&sealed, 1000).as_ref(), Some(&sign_in));
        assert!(open(&sealed, 1000 + LIFETIME_S - 1).is_some());
        assert!(
            open(&sealed, 1000 + LIFETIME_S).is_none(),
            "its time is over"
        );
        assert!(seals.open(Opens::Canvas, &sealed, known, 1000).is_none());
        let beside = |_: &str| vec![KeyDigest([8; 32]), KEY];
        assert!(seals.open(Opens::Pages, &sealed, beside, 1000).is_some());
        let rotated = |_: &str| vec![KeyDigest([8; 32])];
        assert!(seals.open(Opens::Pages, &sealed, rotated, 1000).is_none());
        assert!(
            seals
                .open(Opens::Pages, &sealed, |_| Vec::new(), 1000)
                .is_none()
        );
        assert!(
            Seals::new()
                .open(Opens::Pages, &sealed, known, 1000)
                .is_none()
        );
        for (at, byte) in sealed.bytes().enumerate() {
            let mut forged = sealed.clone().into_bytes();
            forged[at] = if byte == b'1' { b'2' } else { b'1' };
            let forged = String::from_utf8(forged).unwrap();
            // The last digit of a base64 text has bits that nobody reads; those are refused too.
            assert!(open(&forged, 1000).is_none(), "{forged}");
        }
        for nonsense in ["", "1", "1.2.3", "1.2.3.phone.1", "x.y.z.w"] {
            assert!(open(nonsense, 1000).is_none(), "{nonsense}");
        }
        seals.end(&sign_in, 1000);
        assert!(open(&sealed, 1000).is_none(), "signed out");
        assert!(!seals.lives(&sign_in, 1000));
    }

    #[test]
    fn sign_outs_are_never_forgotten() {
        let seals = Seals::new();
        let first = SignIn::new("phone.1", KEY, 0).unwrap();
        let sealed = seals.seal(Opens::Pages, &first).unwrap();
        seals.end(&first, 0);
        for _ in 0..=MAX_ENDED {
            seals.end(&SignIn::new("phone.1", KEY, 0).unwrap(), 0);
        }
        assert!(seals.state().ended.len() <= MAX_ENDED);
        assert!(seals.open(Opens::Pages, &sealed, known, 0).is_none());
    }

    #[test]
    fn clawsecs_cookies_stay_with_clawsec() {
        let rows = [
            ("a=1; __Host-clawsec-ui=x; b=2", Some("a=1; b=2")),
            ("__Host-clawsec-ui=x", None),
            ("clawsec-ui=x;__Host-clawsec-ui=y", None),
            ("a=1;b=2", Some("a=1;b=2")),
            ("my-clawsec-ui=x", Some("my-clawsec-ui=x")),
        ];
        for (cookies, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_static(cookies));
            strip(&mut headers);
            let left = headers.get(COOKIE).map(|value| value.to_str().unwrap());
            assert_eq!(left, expected, "{cookies}");
        }
    }

    #[test]
    fn over_tls_a_cookie_of_a_plain_connection_is_nobodys() {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("a=1; clawsec-ui=x"));
        assert_eq!(presented(&headers, true), None);
        assert_eq!(presented(&headers, false).as_deref(), Some("x"));
        headers.insert(
            COOKIE,
            HeaderValue::from_static("clawsec-ui=x; __Host-clawsec-ui=y"),
        );
        assert_eq!(presented(&headers, true).as_deref(), Some("y"));
    }
}
