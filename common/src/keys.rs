//! Keys and what is derived from them: Ed25519 signatures, the sender master, epoch secrets, flow keys.
//!
//! - A signature always names its domain (what kind of bytes were signed), so that a signed advertisement can
//!   never pass for a signed manifest root.
//! - Secrets are wiped when dropped and never printed: their `Debug` shows the type only.
//! - Derivations are HKDF-SHA256 with the channel id as salt. They are part of the wire (primary and backup must
//!   agree without talking); the known-answer tests below freeze them.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use aws_lc_rs::{hkdf, rand};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{ChannelId, Epoch};
use crate::seal::FlowKey;

/// Why a signature or a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes, the domain, the key and the signature do not belong together.
    #[error("the signature is not valid: the bytes were changed, or another key signed them")]
    BadSignature,
}

/// Fills `bytes` from the operating system's secure random source.
///
/// # Panics
/// When there is no secure randomness: nothing may be sealed or signed then.
pub fn fill_random(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the operating system gives no random bytes");
}

/// A fresh random array.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// From a wire field.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(")?;
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// The public half of a [`SigningKey`]: the identity of a publisher or sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey(pub [u8; 32]);

impl VerifyingKey {
    /// From a wire field.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// Checks that this key signed `bytes` for `domain`.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, domain: &'static str, bytes: &[u8], signature: &Signature) -> Result<(), KeyError> {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&signed_message(domain, bytes), &signature.0)
            .map_err(|_| KeyError::BadSignature)
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

/// What is really signed: `"nackcast v1 " ‖ domain ‖ 0 ‖ bytes`. A domain has no zero byte, so no two domains
/// can give the same message.
fn signed_message(domain: &'static str, bytes: &[u8]) -> Vec<u8> {
    debug_assert!(!domain.contains('\0'), "a domain ends at the first zero byte");
    [b"nackcast v1 ", domain.as_bytes(), &[0], bytes].concat()
}

/// An Ed25519 key pair: the publisher's or a sender's.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// The key that belongs to a stored seed.
    ///
    /// # Panics
    /// Never: every 32 bytes are a seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every 32 bytes are an Ed25519 seed");
        Self { seed, pair }
    }

    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_seed(random())
    }

    /// What to store, in a file that only its owner reads.
    #[must_use]
    pub const fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: an Ed25519 public key has 32 bytes.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_slice(self.pair.public_key().as_ref()).expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs `bytes` as what `domain` says they are.
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 bytes.
    #[must_use]
    pub fn sign(&self, domain: &'static str, bytes: &[u8]) -> Signature {
        let signature = self.pair.sign(&signed_message(domain, bytes));
        Signature::from_slice(signature.as_ref()).expect("an Ed25519 signature has 64 bytes")
    }
}

impl Clone for SigningKey {
    fn clone(&self) -> Self {
        Self::from_seed(self.seed)
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.seed.zeroize(); // the pair wipes its own copy
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.verifying_key())
    }
}

/// Makes a 32-byte secret that is wiped on drop and prints nothing.
macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// A fresh one.
            #[must_use]
            pub fn generate() -> Self {
                Self(random())
            }

            /// From a field of a file or of the wire.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret!(
    /// What a channel's senders share and no receiver ever gets: the root of all epoch secrets.
    SenderMaster);
secret!(
    /// What seals one epoch of a channel; receivers hold it.
    EpochSecret);

impl SenderMaster {
    /// The secret of one epoch.
    #[must_use]
    pub fn epoch(&self, channel: ChannelId, epoch: Epoch) -> EpochSecret {
        EpochSecret(derive(channel, &self.0, &[b"nackcast v1 epoch", &epoch.0.to_be_bytes()]))
    }
}

impl EpochSecret {
    /// The key of one flow of one session (a sender's) or run (a receiver's).
    #[must_use]
    pub fn flow_key(&self, channel: ChannelId, session: u64, flow: Flow) -> FlowKey {
        let info: [&[u8]; 3] = [b"nackcast v1 flow", &session.to_be_bytes(), &[flow as u8]];
        let mut key = derive(channel, &self.0, &info);
        let flow_key = FlowKey::new(&key);
        key.zeroize();
        flow_key
    }
}

/// Who speaks on a connection: what one side proves, the other cannot send back as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// Whoever opened the connection.
    Client = 0,
    /// Whoever was called.
    Server = 1,
}

/// A proof that a side of a connection holds an epoch secret. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Proof(pub [u8; 32]);

impl Proof {
    /// From a wire field.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Proof {}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(..)")
    }
}

impl EpochSecret {
    /// What shows, on the connection with this binding (its TLS exporter) and nowhere else, that `side` holds the
    /// secret.
    #[must_use]
    pub fn prove(&self, channel: ChannelId, side: Side, binding: &[u8; 32]) -> Proof {
        Proof(derive(channel, &self.0, &[b"nackcast v1 quic", &[side as u8], binding]))
    }
}

/// Datagrams that share a key and a packet number: one direction to one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Flow {
    /// To the advertisement group.
    Advertisement = 0,
    /// To the data group.
    Data = 1,
    /// Unicast from a receiver to a sender.
    ToSender = 2,
    /// Unicast from a sender to a receiver.
    ToReceiver = 3,
}

impl Flow {
    /// From the byte on the wire.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Advertisement),
            1 => Some(Self::Data),
            2 => Some(Self::ToSender),
            3 => Some(Self::ToReceiver),
            _ => None,
        }
    }
}

/// 32 bytes of HKDF-SHA256 output.
struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA256 with the channel as salt; `info` is the concatenation of its parts.
fn derive(channel: ChannelId, secret: &[u8; 32], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, &channel.0)
        .extract(secret)
        .expand(info, KeyLength)
        .and_then(|output| output.fill(&mut out))
        .expect("HKDF gives up to 8,160 bytes and 32 were asked");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: ChannelId = ChannelId([7; 16]);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_signature_holds_for_its_key_domain_and_bytes_only() {
        let key = SigningKey::generate();
        let public = key.verifying_key();
        let signature = key.sign("manifest", b"bytes");
        assert_eq!(public.verify("manifest", b"bytes", &signature), Ok(()));
        assert_eq!(public.verify("advertisement", b"bytes", &signature), Err(KeyError::BadSignature));
        assert_eq!(public.verify("manifest", b"byteS", &signature), Err(KeyError::BadSignature));
        assert_eq!(public.verify("manifest", b"", &signature), Err(KeyError::BadSignature));
        let other = SigningKey::generate().verifying_key();
        assert_eq!(other.verify("manifest", b"bytes", &signature), Err(KeyError::BadSignature));
        let mut bent = signature;
        bent.0[63] ^= 1;
        assert_eq!(public.verify("manifest", b"bytes", &bent), Err(KeyError::BadSignature));
    }

    #[test]
    fn a_key_comes_back_from_its_seed() {
        let key = SigningKey::generate();
        let again = SigningKey::from_seed(*key.seed());
        assert_eq!(again.verifying_key(), key.verifying_key());
        assert_eq!(key.sign("d", b"x"), again.sign("d", b"x"));
    }

    #[test]
    fn a_key_that_is_no_curve_point_is_refused_and_not_a_panic() {
        assert_eq!(VerifyingKey([0xff; 32]).verify("d", b"x", &Signature([0; 64])), Err(KeyError::BadSignature));
    }

    #[test]
    fn secrets_are_not_printed() {
        let master = SenderMaster([0xab; 32]);
        assert_eq!(format!("{master:?}"), "SenderMaster(..)");
        assert_eq!(format!("{:?}", EpochSecret([0xab; 32])), "EpochSecret(..)");
        let key = SigningKey::from_seed([0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
    }

    #[test]
    fn epochs_channels_sessions_and_flows_have_keys_of_their_own() {
        let master = SenderMaster([1; 32]);
        let epoch = master.epoch(CHANNEL, Epoch(1));
        assert_eq!(epoch, master.epoch(CHANNEL, Epoch(1)));
        assert_ne!(epoch, master.epoch(CHANNEL, Epoch(2)));
        assert_ne!(epoch, master.epoch(ChannelId([8; 16]), Epoch(1)));
        let mut seen = std::collections::BTreeSet::new();
        for session in [1, 2] {
            for byte in 0..=3 {
                let key = epoch.flow_key(CHANNEL, session, Flow::from_u8(byte).unwrap());
                let mut datagram = [0_u8; 20];
                key.seal_in_place(0, 0, &mut datagram);
                assert!(seen.insert(datagram), "session {session} flow {byte} shares a key");
            }
        }
        assert_eq!(Flow::from_u8(4), None);
    }

    #[test]
    fn a_proof_holds_for_its_secret_channel_side_and_connection_only() {
        let secret = EpochSecret([1; 32]);
        let proof = secret.prove(CHANNEL, Side::Client, &[9; 32]);
        assert_eq!(proof, secret.prove(CHANNEL, Side::Client, &[9; 32]));
        assert_ne!(proof, secret.prove(CHANNEL, Side::Server, &[9; 32]));
        assert_ne!(proof, secret.prove(CHANNEL, Side::Client, &[8; 32]));
        assert_ne!(proof, secret.prove(ChannelId([8; 16]), Side::Client, &[9; 32]));
        assert_ne!(proof, EpochSecret([2; 32]).prove(CHANNEL, Side::Client, &[9; 32]));
    }

    /// Computed by another implementation (Python's hmac); a change here breaks the wire.
    #[test]
    fn derivations_are_frozen() {
        let epoch = SenderMaster([1; 32]).epoch(CHANNEL, Epoch(0x0102_0304));
        assert_eq!(hex(&epoch.0), "cd77999cf3d40ea739e46c9f742c55d3e6ef5200cf607b7b1988c05875881c9d");
        let info: [&[u8]; 3] = [b"nackcast v1 flow", &0x0102_0304_0506_0708_u64.to_be_bytes(), &[2]];
        assert_eq!(
            hex(&derive(CHANNEL, &epoch.0, &info)),
            "b8607b9f70252f99a2106a6b69b0a9e0177ea5159eabe0fd9561720757b5a08e"
        );
    }
    /// The same: AES-256-GCM by Python's cryptography package.
    #[test]
    fn sealing_is_frozen() {
        let epoch = SenderMaster([1; 32]).epoch(CHANNEL, Epoch(0x0102_0304));
        let key = epoch.flow_key(CHANNEL, 0x0102_0304_0506_0708, Flow::ToSender);
        let mut datagram = *b"headerplain................";
        key.seal_in_place(5, 6, &mut datagram);
        assert_eq!(hex(&datagram[6..]), "af63db5103072b422c51b996b841e1bc1dc50a2513");
    }
}
