//! Device identities of the gateway's protocol: verifying a client's, signing with clawsec's own.
//!
//! A device is an Ed25519 key; its id is the SHA-256 of the raw public key in hexadecimal. The
//! signature covers the token, so a client's cannot be passed on with another token: clawsec ends
//! it here and signs anew with a key of its own for each principal.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::handshake::Connect;
use crate::gateway::shared::{hex, unix_now_ms};

/// As in the gateway: `DEVICE_SIGNATURE_SKEW_MS`.
const MAX_SKEW_MS: u64 = 10 * 60 * 1000;
/// The DER prefix of an Ed25519 public key (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Checks the `device` of a `connect` against the nonce it was given. The error is the message
/// the gateway itself would give.
pub(super) fn verify(connect: &Connect, device: &Value, nonce: &str) -> Result<(), &'static str> {
    let text = |key: &str| device.get(key).and_then(Value::as_str).unwrap_or_default();
    let public = public_key(text("publicKey")).ok_or("device public key invalid")?;
    if device_id(&public) != text("id") {
        return Err("device identity mismatch");
    }
    let signed_at = device
        .get("signedAt")
        .and_then(Value::as_u64)
        .filter(|signed_at| unix_now_ms().abs_diff(*signed_at) <= MAX_SKEW_MS)
        .ok_or("device signature expired")?;
    match text("nonce").trim() {
        // A v1 signature has no nonce and could be replayed; the gateway, too, takes it from
        // loopback only.
        "" => return Err("device nonce required"),
        given if given != nonce => return Err("device nonce mismatch"),
        _ => {}
    }
    let signature = decode(text("signature")).ok_or("device signature invalid")?;
    let key = UnparsedPublicKey::new(&ED25519, public);
    let id = text("id");
    let v2 = signed_text(
        "v2",
        id,
        connect,
        &connect.scopes,
        signed_at,
        &connect.token,
        nonce,
    );
    let v3 = format!(
        "{}|{}|{}",
        signed_text(
            "v3",
            id,
            connect,
            &connect.scopes,
            signed_at,
            &connect.token,
            nonce
        ),
        connect.client_text("platform").to_lowercase(),
        connect.client_text("deviceFamily").to_lowercase(),
    );
    [v2, v3]
        .iter()
        .any(|signed| key.verify(signed.as_bytes(), &signature).is_ok())
        .then_some(())
        .ok_or("device signature invalid")
}

/// clawsec's own device for one principal's clients of one kind.
pub(super) struct OwnDevice {
    key: Ed25519KeyPair,
    id: String,
}

impl OwnDevice {
    /// `None` only for a seed of another length than Ed25519's.
    fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let id = device_id(key.public_key().as_ref());
        Some(Self { key, id })
    }

    /// The device of a principal for the kind of client that `connect` is of. The gateway pins a
    /// device to its role, its program and its platform, and a principal may have several.
    pub(super) fn of_client(principal: &[u8; 32], connect: &Connect) -> Option<Self> {
        let kind = [
            connect.role.as_str(),
            connect.client_text("id"),
            connect.client_text("mode"),
            connect.client_text("platform"),
            connect.client_text("deviceFamily"),
        ];
        // Lengths keep two kinds apart whose texts would join to one.
        let kind = kind.map(|text| format!("{}:{}", text.len(), text.to_lowercase()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, principal);
        let tag = hmac::sign(&key, kind.join("|").as_bytes());
        Self::from_seed(tag.as_ref().first_chunk()?)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The `device` member of clawsec's own `connect`, with the v2 text that every version takes.
    pub(super) fn sign(
        &self,
        connect: &Connect,
        scopes: &[String],
        token: &str,
        nonce: &str,
    ) -> Value {
        let signed_at = unix_now_ms();
        let text = signed_text("v2", &self.id, connect, scopes, signed_at, token, nonce);
        let signature = self.key.sign(text.as_bytes());
        json!({
            "id": self.id,
            "publicKey": URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref()),
            "signature": URL_SAFE_NO_PAD.encode(signature.as_ref()),
            "signedAt": signed_at,
            "nonce": nonce,
        })
    }
}

fn signed_text(
    version: &str,
    id: &str,
    connect: &Connect,
    scopes: &[String],
    signed_at_ms: u64,
    token: &str,
    nonce: &str,
) -> String {
    [
        version,
        id,
        connect.client_text("id"),
        connect.client_text("mode"),
        connect.role.as_str(),
        &scopes.join(","),
        &signed_at_ms.to_string(),
        token,
        nonce,
    ]
    .join("|")
}

fn device_id(public: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, public).as_ref())
}

/// Raw in base64, or PEM.
fn public_key(text: &str) -> Option<Vec<u8>> {
    if text.contains("BEGIN") {
        let body: String = text
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        return decode(&body)?
            .strip_prefix(&SPKI_PREFIX)
            .filter(|raw| raw.len() == 32)
            .map(<[u8]>::to_vec);
    }
    decode(text).filter(|raw| raw.len() == 32)
}

/// Either alphabet, padded or not, as Node's `Buffer` takes both.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD_NO_PAD.decode(text))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::handshake::Role;
    use super::*;

    fn connect(token: &str) -> Connect {
        Connect {
            id: "1".into(),
            params: json!({"client": {"id": "cli", "mode": "cli", "platform": "Linux"}})
                .as_object()
                .unwrap()
                .clone(),
            role: Role::Operator,
            scopes: vec!["operator.read".into()],
            token: token.into(),
            password: String::new(),
        }
    }

    #[test]
    fn only_an_unchanged_fresh_signature_verifies() {
        let own = OwnDevice::from_seed(&[7; 32]).unwrap();
        let signed = |token: &str| own.sign(&connect(token), &["operator.read".into()], token, "n");
        let with = |key: &str, value: Value| {
            let mut device = signed("k");
            device[key] = value;
            device
        };
        let other = OwnDevice::from_seed(&[8; 32]).unwrap();
        let rows = [
            ("genuine", signed("k"), Ok(())),
            (
                "another token",
                signed("l"),
                Err("device signature invalid"),
            ),
            (
                "another id",
                with("id", "00".into()),
                Err("device identity mismatch"),
            ),
            (
                "no nonce",
                with("nonce", "".into()),
                Err("device nonce required"),
            ),
            (
                "another nonce",
                with("nonce", "m".into()),
                Err("device nonce mismatch"),
            ),
            (
                "old",
                with("signedAt", 1.into()),
                Err("device signature expired"),
            ),
            (
                "moved time",
                with("signedAt", (unix_now_ms() - 5).into()),
                Err("device signature invalid"),
            ),
            (
                "no key",
                with("publicKey", "".into()),
                Err("device public key invalid"),
            ),
            (
                "another's signature",
                with(
                    "signature",
                    other.sign(&connect("k"), &["operator.read".into()], "k", "n")["signature"]
                        .clone(),
                ),
                Err("device signature invalid"),
            ),
        ];
        for (name, device, expected) in rows {
            assert_eq!(verify(&connect("k"), &device, "n"), expected, "{name}");
        }
    }

    #[test]
    fn each_kind_of_client_has_a_device_of_its_own_that_stays() {
        let with = |client: Value, role: Role| {
            let mut connect = connect("k");
            connect.params.insert("client".into(), client);
            connect.role = role;
            OwnDevice::of_client(&[7; 32], &connect).unwrap().id
        };
        let cli = json!({"id": "cli", "mode": "cli", "platform": "linux"});
        let id = with(cli.clone(), Role::Operator);
        assert_eq!(id, with(cli.clone(), Role::Operator));
        let others = [
            with(cli, Role::Node),
            with(
                json!({"id": "cli", "mode": "cli", "platform": "darwin"}),
                Role::Operator,
            ),
            with(
                json!({"id": "webchat", "mode": "webchat", "platform": "linux"}),
                Role::Operator,
            ),
            with(
                json!({"id": "cli", "mode": "cli", "platform": "linux", "deviceFamily": "x"}),
                Role::Operator,
            ),
        ];
        assert!(others.iter().all(|other| *other != id));
    }

    #[test]
    fn the_third_version_and_pem_keys_verify() {
        let own = OwnDevice::from_seed(&[7; 32]).unwrap();
        let connect = connect("k");
        let signed_at = unix_now_ms();
        let text = format!(
            "{}|linux|",
            signed_text(
                "v3",
                &own.id,
                &connect,
                &connect.scopes,
                signed_at,
                "k",
                "n"
            )
        );
        let mut der = SPKI_PREFIX.to_vec();
        der.extend_from_slice(own.key.public_key().as_ref());
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            base64::engine::general_purpose::STANDARD.encode(der)
        );
        let device = json!({
            "id": own.id, "publicKey": pem, "signedAt": signed_at, "nonce": "n",
            "signature": STANDARD_NO_PAD.encode(own.key.sign(text.as_bytes()).as_ref()),
        });
        assert_eq!(verify(&connect, &device, "n"), Ok(()));
    }
}
