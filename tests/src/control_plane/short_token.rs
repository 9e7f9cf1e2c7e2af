//! Tokens that end sooner than the API grants: signed anew with the cluster's own key.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::KeyPair;
use serde_json::Value;

/// What the API server grants to clocks that differ (go-jose's `DefaultLeeway`).
const LEEWAY: Duration = Duration::from_secs(60);

/// The same token, accepted until then only. `key` is the PEM of the key that signed it.
pub(super) fn accepted_until(token: &str, key: &str, end: Timestamp) -> Result<String> {
    let (header, rest) = token.split_once('.').context("a token without parts")?;
    let (claims, _signature) = rest
        .split_once('.')
        .context("a token without a signature")?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    claims["exp"] = (end - LEEWAY).as_second().into();
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let signed = format!("{header}.{claims}");
    let key = KeyPair::from_pem(key)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der())
        .map_err(|error| anyhow!("the key of ServiceAccounts: {error}"))?;
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes())?;
    let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
    Ok(format!("{signed}.{signature}"))
}
