//! QUIC between nodes: TLS 1.3 with raw public keys on both sides (RFC 7250), requests and replies as frames.
//!
//! - A node's identity is an Ed25519 key. TLS proves that the other side has the key it shows; *whose* keys count is
//!   decided above, by the first message of each side ([`Service::greet`]), which is bound to the connection.
//! - A connection belongs to nobody before its first message was accepted: nothing else is read from it.
//! - Everything that a peer can make us hold or do is bounded ([`Limits`], and named constants).
//! - What travels is opaque here: messages are `nackcast-proto`'s.

mod client;
mod frame;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

pub use self::client::{Client, Connection, Incoming};
pub use self::server::{Counters, Limits, Server};
use super::NetError;
use crate::keys::{SigningKey, VerifyingKey};

/// What both sides speak, as TLS names it.
const ALPN: &[u8] = b"nackcast/1";
/// Names the exporter that the first messages are bound to.
const BINDING_LABEL: &[u8] = b"EXPERIMENTAL nackcast/1 hello";
/// Longest hello or request.
pub const MESSAGE_LEN_MAX: usize = 1024;
/// A peer of which nothing is heard for so long is gone; so is a reply of which nothing comes.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Bytes that a peer may have under way to us, in a stream and in all.
const RECEIVE_WINDOW: (u32, u32) = (2 << 20, 8 << 20);
/// Bytes that are kept for a peer until it acknowledged them.
const SEND_WINDOW: u64 = 1 << 20;

/// Before anything was measured: a way that loses much must not wait a second for each repetition.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Replies to a request, made one by one on a thread that may wait for a disk.
pub type Replies = Box<dyn Iterator<Item = Bytes> + Send>;

/// Whoever answers connections.
pub trait Service: Send + Sync {
    /// A peer's first message, on the connection with this binding: the reply and who answers from now on. TLS says
    /// that the peer has the key `identity`, which may be anybody's.
    ///
    /// # Errors
    /// Why the peer is refused, for the log; the peer is told nothing.
    fn greet(
        &self,
        identity: &VerifyingKey,
        binding: &[u8; 32],
        hello: &[u8],
    ) -> Result<(Vec<u8>, Arc<dyn Session>), String>;
}

/// Answers the requests of one connection.
pub trait Session: Send + Sync {
    /// Whether the peer proved something that still counts. Else it stays a stranger, which has a few seconds for one
    /// question and goes when others come; a member that is none any more is shown out when it asks.
    fn is_member(&self) -> bool {
        true
    }

    /// Replies; none when the request is refused.
    fn answer(&self, request: &[u8]) -> Option<Replies>;
}

/// Why a connection or a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// A socket could not be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The machine lacks something.
    #[error("cannot {action}: {reason}")]
    Setup {
        /// What was tried.
        action: &'static str,
        /// What is said.
        reason: String,
    },
    /// Nobody there, or somebody who speaks something else.
    #[error("no QUIC connection to {peer}: {reason}; check address and firewall: QUIC is on the port after the NACKs'")]
    Connect {
        /// Who was called.
        peer: SocketAddr,
        /// What is said.
        reason: String,
    },
    /// The peer ended the connection or the stream.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The peer sent more than it may.
    #[error("the peer sent a message of {0} bytes, which is more than expected")]
    TooLong(u64),
}

/// An Ed25519 public key as TLS sends it, up to the key itself (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The same of a private key (PKCS #8), up to its seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

fn setup<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> QuicError {
    move |error| QuicError::Setup { action, reason: error.to_string() }
}

const TLS: &str = "set up TLS";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certified(identity: &SigningKey, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, QuicError> {
    let pkcs8 = [&PKCS8_PREFIX[..], &identity.seed()[..]].concat();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    let key = provider.key_provider.load_private_key(key).map_err(setup(TLS))?;
    let public = [&SPKI_PREFIX[..], &identity.verifying_key().0[..]].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key)))
}

fn server_config(identity: &SigningKey, streams: u32) -> Result<quinn::ServerConfig, QuicError> {
    let provider = provider();
    let key = certified(identity, &provider)?;
    let anyone = Arc::new(AnyIdentity(provider.signature_verification_algorithms));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(setup(TLS))?
        .with_client_cert_verifier(anyone)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;
    let tls = QuicServerConfig::try_from(tls).map_err(setup(TLS))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport(streams)));
    config.migration(false);
    Ok(config)
}

fn client_config(identity: &SigningKey) -> Result<quinn::ClientConfig, QuicError> {
    let provider = provider();
    let key = certified(identity, &provider)?;
    let anyone = Arc::new(AnyIdentity(provider.signature_verification_algorithms));
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(setup(TLS))?
        .dangerous()
        .with_custom_certificate_verifier(anyone)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    let tls = QuicClientConfig::try_from(tls).map_err(setup(TLS))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport(0)));
    Ok(config)
}

/// Bounds of a connection; `streams` may be opened by the other side at once.
fn transport(streams: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW.0))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW.1))
        .send_window(SEND_WINDOW)
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(IdleTimeout::try_from(IDLE_MAX).ok());
    transport
}

/// What the first messages of a connection are bound to.
fn binding_of(connection: &quinn::Connection) -> Result<[u8; 32], QuicError> {
    let mut binding = [0; 32];
    connection
        .export_keying_material(&mut binding, BINDING_LABEL, b"")
        .map_err(|_| QuicError::Broken("TLS exports no key".to_owned()))?;
    Ok(binding)
}

/// The key that TLS found the peer to have.
fn identity_of(connection: &quinn::Connection) -> Result<VerifyingKey, QuicError> {
    let shown = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let key = shown.as_ref().and_then(|chain| chain.first()?.strip_prefix(&SPKI_PREFIX));
    key.and_then(VerifyingKey::from_slice).ok_or_else(|| QuicError::Broken("TLS names no key of the peer".to_owned()))
}

/// Takes any Ed25519 key, and insists that the peer has it: who is trusted is decided by the first message.
#[derive(Debug)]
struct AnyIdentity(WebPkiSupportedAlgorithms);

impl AnyIdentity {
    fn check(certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let is_key = certificate.len() == SPKI_PREFIX.len() + 32 && certificate.starts_with(&SPKI_PREFIX);
        if is_key { Ok(()) } else { Err(CertificateError::BadEncoding.into()) }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(certificate.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.0)
    }

    fn no_tls12() -> rustls::Error {
        rustls::Error::General("only TLS 1.3 is spoken".to_owned())
    }
}

impl ServerCertVerifier for AnyIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyIdentity {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
