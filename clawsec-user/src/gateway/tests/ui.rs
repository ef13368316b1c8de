//! The sign-in page, its cookie, through the whole gateway.

use super::http::{Answer, ask, bearer};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules, UPSTREAM_TOKEN};
use crate::event::{EventKind, Outcome};

pub(super) const HTML: &str = "Accept: text/html,*/*";

/// Posts the form as the page on this host does.
async fn post(rig: &Rig, key: &str, next: &str) -> Answer {
    let origin = format!("Origin: http://{}", rig.address);
    post_from(rig, key, next, &[&origin]).await
}

async fn post_from(rig: &Rig, key: &str, next: &str, headers: &[&str]) -> Answer {
    let form = format!("next={}&key={key}", next.replace('/', "%2F"));
    ask(rig, "POST /__clawsec/sign-in", headers, &form).await
}

/// A `Cookie` header out of an answer's `Set-Cookie`.
fn cookie(answer: &Answer) -> String {
    let pair = header(answer, "set-cookie").split(';').next().unwrap();
    format!("Cookie: {pair}")
}

pub(super) fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let mut lines = answer.raw_head.lines();
    lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_default()
}

pub(super) async fn signed_in(rig: &Rig, key: &str) -> String {
    let answer = post(rig, key, "/chat").await;
    assert_eq!(answer.status, 303, "{}", answer.head);
    cookie(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_once_and_then_a_cookie_for_pages_alone() {
    let rig = Rig::start(Rules::default()).await;
    let page = ask(&rig, "GET /chat?x=1", &[HTML], "").await;
    assert_eq!(page.status, 401);
    assert!(
        page.body.contains(r#"name="next" value="/chat?x=1""#),
        "{}",
        page.body
    );
    assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    assert_eq!(rig.upstream.connections(), 0);

    let answer = post(&rig, READ_KEY, "/chat?x=1").await;
    assert_eq!(
        (answer.status, header(&answer, "location")),
        (303, "/chat?x=1")
    );
    let set = header(&answer, "set-cookie").to_lowercase();
    for word in ["httponly", "samesite=strict", "max-age=43200", "path=/"] {
        assert!(set.contains(word), "{set}");
    }
    let cookie = cookie(&answer);
    let event = rig.event("sign_in", Outcome::Allow, "ok").await;
    assert_eq!(
        (event.kind, event.principal.as_deref()),
        (EventKind::Auth, Some("reader"))
    );

    let page = ask(&rig, "GET /chat", &[HTML, &cookie, "X-Else: 1"], "").await;
    assert_eq!(page.status, 200, "{}", page.body);
    // Neither the cookie nor clawsec's own token goes on.
    let seen = page.json();
    assert!(seen["headers"]["cookie"].is_null(), "{seen}");
    assert!(seen["headers"]["authorization"].is_null(), "{seen}");
    for line in [
        "GET /v1/models",
        "GET /api/x",
        "POST /tools/invoke",
        "POST /chat",
    ] {
        let body = if line.starts_with("POST") { "{}" } else { "" };
        let denied = ask(&rig, line, &[&cookie], body).await;
        assert_eq!(denied.status, 401, "{line}");
    }
    // A cookie of another's making.
    let forged = cookie.replace("reader", "admin");
    assert_eq!(ask(&rig, "GET /chat", &[&forged], "").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_a_failed_login() {
    let rig = Rig::start(Rules {
        requests: 8,
        ..Rules::default()
    })
    .await;
    let wrong = post(&rig, "wrong%3Cb%3E", "/chat").await;
    assert_eq!(wrong.status, 401);
    assert!(
        wrong.body.contains("This key is not valid."),
        "{}",
        wrong.body
    );
    let event = rig
        .event("sign_in", Outcome::Deny, "credential_unknown")
        .await;
    assert_eq!(event.kind, EventKind::Auth);
    let own = post(&rig, UPSTREAM_TOKEN, "/chat").await;
    assert_eq!(own.status, 401, "the upstream's own");
    let empty = post(&rig, "", "/chat").await;
    assert!(empty.body.contains("Please enter a key."), "{}", empty.body);
    for _ in 0..8 {
        post(&rig, "wrong", "/chat").await;
    }
    let limited = post(&rig, READ_KEY, "/chat").await;
    assert_eq!(limited.status, 429);
    assert!(
        limited.body.contains("Too many attempts."),
        "{}",
        limited.body
    );
    rig.event("sign_in", Outcome::Deny, "rate_limited").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_other_sites_are_refused() {
    let rig = Rig::start(Rules::default()).await;
    let rows: [(&str, &[&str], u16); 5] = [
        ("another site", &["Origin: https://evil.example"], 403),
        ("no origin", &["Origin: null"], 403),
        ("no browser", &[], 403),
        ("says another", &["Sec-Fetch-Site: cross-site"], 403),
        ("says this", &["Sec-Fetch-Site: same-origin"], 303),
    ];
    for (name, headers, status) in rows {
        let answer = post_from(&rig, READ_KEY, "/", headers).await;
        assert_eq!(answer.status, status, "{name}");
        assert_eq!(answer.head.contains("set-cookie"), status == 303, "{name}");
    }
    rig.event("sign_in", Outcome::Deny, "origin_not_allowed")
        .await;
    for next in ["//evil.example", "https://evil.example", "/\\evil.example"] {
        let answer = post(&rig, READ_KEY, next).await;
        assert_eq!(
            (answer.status, header(&answer, "location")),
            (303, "/"),
            "{next}"
        );
    }
    let cookie = signed_in(&rig, READ_KEY).await;
    let out = ["Origin: https://evil.example", &cookie];
    assert_eq!(
        ask(&rig, "POST /__clawsec/sign-out", &out, "x=1")
            .await
            .status,
        403
    );
    assert_eq!(
        ask(&rig, "GET /", &[&cookie], "").await.status,
        200,
        "still signed in"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_and_losing_the_key_end_it() {
    let mut rig = Rig::start(Rules::default()).await;
    let first = signed_in(&rig, READ_KEY).await;
    let second = signed_in(&rig, READ_KEY).await;
    let origin = format!("Origin: http://{}", rig.address);
    let out = ask(&rig, "POST /__clawsec/sign-out", &[&origin, &first], "x=1").await;
    assert_eq!(out.status, 200);
    assert!(
        header(&out, "set-cookie").contains("Max-Age=0"),
        "{}",
        out.head
    );
    assert_eq!(header(&out, "clear-site-data"), r#""cache", "storage""#);
    rig.event("sign_out", Outcome::Allow, "ok").await;
    let page = ask(&rig, "GET /", &[HTML, &first], "").await;
    assert_eq!(page.status, 401);
    assert!(
        page.body.contains("The sign-in has ended."),
        "{}",
        page.body
    );
    assert_eq!(
        ask(&rig, "GET /", &[&second], "").await.status,
        200,
        "another's"
    );

    // A reload that keeps the key keeps people signed in; one that takes it does not.
    rig.install(Rules {
        generation: 2,
        ..Rules::default()
    })
    .await;
    assert_eq!(ask(&rig, "GET /", &[&second], "").await.status, 200);
    rig.install(Rules {
        generation: 3,
        keys: vec![ADMIN_KEY],
        ..Rules::default()
    })
    .await;
    assert_eq!(ask(&rig, "GET /", &[&second], "").await.status, 401);
    rig.event("request", Outcome::Deny, "credential_expired")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_ui_is_open_for_what_is_the_same_for_all() {
    let rig = Rig::start(Rules {
        is_open: true,
        ..Rules::default()
    })
    .await;
    let rows = [
        ("GET /", 200),
        ("GET /assets/index.js", 200),
        ("GET /avatar/main", 401),
        ("GET /__clawdbot__/canvas/", 401),
        ("GET /v1/models", 401),
        ("POST /", 401),
    ];
    for (line, status) in rows {
        let body = if line.starts_with("POST") { "{}" } else { "" };
        let answer = ask(&rig, line, &[], body).await;
        assert_eq!(answer.status, status, "{line}");
        if status == 200 {
            assert!(
                answer.json()["headers"]["authorization"].is_null(),
                "{line}"
            );
        }
    }
    let wrong = ask(&rig, "GET /", &[&bearer("wrong")], "").await;
    assert_eq!(wrong.status, 401, "a wrong key is one here, too");
}
