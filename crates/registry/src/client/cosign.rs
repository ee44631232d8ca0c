//! Signatures of images as `cosign sign --key` makes them.
//!
//! A signature is a small image whose layers are payloads: JSON that names the signed manifest's digest. The signature of
//! a payload's bytes is an annotation of its layer. Where it is: under the tag `sha256-<hex>.sig`, or among the manifest's
//! referrers.
//!
//! # Source
//! Sigstore's specifications "SIGNATURE_SPEC" and, for the payload, containers/image's "simple signing".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::ClientError;
use super::remote::{Fetched, Remote};
use crate::digest::ContentDigest;
use crate::manifest::Descriptor;
use crate::name::Target;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The largest payload that is read, in bytes.
const MAX_PAYLOAD: usize = 64 << 10;
/// The most signatures of one image that are looked at.
const MOST_SIGNATURES: usize = 200;

/// How a SubjectPublicKeyInfo begins, and how long the key behind it is.
type Form = (&'static [u8], usize, &'static dyn VerificationAlgorithm);

/// The beginnings of the keys that we know, in DER: the algorithm, then a bit string with the key.
const FORMS: &[Form] = &[
    (
        &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ],
        65,
        &ECDSA_P256_SHA256_ASN1,
    ),
    (
        &[
            0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
            0x00, 0x22, 0x03, 0x62, 0x00,
        ],
        97,
        &ECDSA_P384_SHA384_ASN1,
    ),
    (&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], 32, &ED25519),
];

/// A public key that signatures are checked with: ECDSA on P-256 (cosign's own) or P-384, or Ed25519.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    key: Vec<u8>,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({} bytes)", self.key.len())
    }
}

/// Text that is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM.
    #[error("there is no PUBLIC KEY in PEM form; cosign writes one to cosign.pub")]
    Pem,
    /// Another kind of key.
    #[error("unsupported kind of public key; there are ECDSA on P-256 and P-384, and Ed25519")]
    Kind,
}

impl PublicKey {
    /// Reads a key as cosign and openssl write it.
    ///
    /// # Errors
    /// When it is no PEM, or another kind of key.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Pem)?;
        let known = FORMS.iter().find_map(|(prefix, length, algorithm)| {
            let key = der.as_ref().strip_prefix(*prefix)?;
            (key.len() == *length).then(|| Self { algorithm: *algorithm, key: key.to_vec() })
        });
        known.ok_or(KeyError::Kind)
    }

    /// Whether a signature of some bytes is this key's.
    fn accepts(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.key).verify(bytes, signature).is_ok()
    }
}

/// What a payload says.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Signed,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(rename = "docker-manifest-digest")]
    digest: ContentDigest,
}

impl Remote {
    /// Checks that a manifest was signed with a key. To be done before anything of the image is used.
    ///
    /// # Errors
    /// [`ClientError::Signature`] when there is no signature of that key for that digest.
    pub async fn verify(&self, digest: &ContentDigest, key: &PublicKey) -> Result<(), ClientError> {
        let mut looked = 0;
        let mut reason = "there is none".to_owned();
        let failed =
            |reason: String| ClientError::Signature { what: format!("{}@{digest}", self.repository()), reason };
        for signatures in self.signatures(digest).await? {
            for layer in signatures.manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD) {
                looked += 1;
                if looked > MOST_SIGNATURES {
                    return Err(failed(format!("none of the first {MOST_SIGNATURES} is of this key")));
                }
                match self.check(layer, digest, key).await? {
                    Ok(()) => return Ok(()),
                    Err(why) => reason = why.to_owned(),
                }
            }
        }
        Err(failed(reason))
    }

    /// The manifests that may have signatures of another one.
    async fn signatures(&self, digest: &ContentDigest) -> Result<Vec<Fetched>, ClientError> {
        let mut found = Vec::new();
        if let Ok(tag) = format!("{}-{}.sig", digest.algorithm(), digest.hex()).parse() {
            match self.manifest(&Target::Tag(tag)).await {
                Ok(signatures) => found.push(signatures),
                Err(ClientError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for referrer in self.referrers(digest, Some(ARTIFACT)).await?.iter().take(MOST_SIGNATURES) {
            found.push(self.manifest(&Target::Digest(referrer.digest)).await?);
        }
        Ok(found)
    }

    /// Whether one layer is a good signature, or why not.
    async fn check(
        &self,
        layer: &Descriptor,
        digest: &ContentDigest,
        key: &PublicKey,
    ) -> Result<Result<(), &'static str>, ClientError> {
        let signature = layer.annotations.get(SIGNATURE).and_then(|text| STANDARD.decode(text).ok());
        let Some(signature) = signature else { return Ok(Err("a payload has no signature beside it")) };
        if layer.size > MAX_PAYLOAD as u64 {
            return Ok(Err("a payload is too large to be one"));
        }
        let payload = self.blob(layer, None).await?.into_bytes(MAX_PAYLOAD).await?;
        Ok(judge(&payload, &signature, digest, key))
    }
}

fn judge(payload: &[u8], signature: &[u8], digest: &ContentDigest, key: &PublicKey) -> Result<(), &'static str> {
    // First the key, so that nothing of a stranger is even read.
    if !key.accepts(payload, signature) {
        return Err("it is of another key, or was changed");
    }
    let payload: Payload = serde_json::from_slice(payload).map_err(|_| "its payload cannot be read")?;
    if payload.critical.kind != "cosign container image signature" {
        return Err("its payload is about something else than an image");
    }
    if payload.critical.image.digest != *digest {
        return Err("it is for another image");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_keys_are_refused() {
        assert_eq!(PublicKey::from_pem("x").unwrap_err(), KeyError::Pem);
        let text = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode([0x30, 0x03]));
        assert_eq!(PublicKey::from_pem(&text).unwrap_err(), KeyError::Kind);
    }
}
