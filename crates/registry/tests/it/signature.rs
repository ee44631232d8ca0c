//! Signatures as cosign makes them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use registry::client::{ClientError, PublicKey};
use registry::digest::ContentDigest;
use registry::manifest::OCI_MANIFEST;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::tools::{client, describe, manifest, noise, push, start, tag};

/// A new key, and its public half in PEM.
fn key() -> (EcdsaKeyPair, String) {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
    let mut der = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    der.extend_from_slice(pair.public_key().as_ref());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    (pair, pem)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_key_for_the_right_image_counts() {
    let server = start().await;
    let remote = client().remote(&server.domain(), "signed").unwrap();
    let (signed, other) = (push(&remote, "1", &[noise(1, 10)]).await, push(&remote, "2", &[noise(2, 10)]).await);
    let (pair, pem) = key();
    let public = PublicKey::from_pem(&pem).unwrap();
    let error = remote.verify(&signed, &public).await.unwrap_err();
    assert!(matches!(error, ClientError::Signature { .. }), "{error}");
    // The other image's signatures claim to be about it, and are about the first.
    for (subject, name) in [(signed, signed), (signed, other)] {
        sign(&remote, &pair, &subject, &name).await;
    }
    remote.verify(&signed, &public).await.unwrap();
    let error = remote.verify(&other, &public).await.unwrap_err();
    assert!(error.to_string().contains("another image"), "{error}");
    let error = remote.verify(&signed, &PublicKey::from_pem(&key().1).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
}

/// Puts a signature of `subject` where that of `place` belongs.
async fn sign(remote: &registry::client::Remote, pair: &EcdsaKeyPair, subject: &ContentDigest, place: &ContentDigest) {
    let payload = Bytes::from(format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"x"}},"image":{{"docker-manifest-digest":"{subject}"}},"type":"cosign container image signature"}},"optional":null}}"#
    ));
    let signature = pair.sign(&SystemRandom::new(), &payload).unwrap();
    let mut layer = describe("application/vnd.dev.cosign.simplesigning.v1+json", &payload);
    let name = "dev.cosignproject.cosign/signature".to_owned();
    layer.annotations.insert(name, STANDARD.encode(signature.as_ref()));
    let config = Bytes::from_static(b"{}");
    let config_is = describe("application/vnd.oci.image.config.v1+json", &config);
    remote.push_blob(&config_is, Arc::new(config), &[], None).await.unwrap();
    remote.push_blob(&layer, Arc::new(payload), &[], None).await.unwrap();
    let text = manifest(&config_is, &[layer], "");
    let target = tag(&format!("sha256-{}.sig", place.hex()));
    remote.push_manifest(&target, OCI_MANIFEST, text).await.unwrap();
}
