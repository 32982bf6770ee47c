//! Tickets: what a receiver needs to join a channel, as one line of text.
//!
//! `nackcast1` and then base64url (no padding) of the message and the first four bytes of its BLAKE3, so that
//! a ticket cut short or mistyped is noticed before anything is sent.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use nackcast_common::ids::{ChannelId, Epoch};
use nackcast_common::keys::{EpochSecret, VerifyingKey};
use prost::Message;

use crate::pb;

const PREFIX: &str = "nackcast1";
const CHECKSUM_LEN: usize = 4;
const SENDERS_MAX: usize = 16;

/// What a receiver needs to join.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The channel.
    pub channel: ChannelId,
    /// Its name, for people.
    pub name: String,
    /// Who signs manifests.
    pub publisher: VerifyingKey,
    /// The advertisement address.
    pub advertise: SocketAddr,
    /// Senders as HOST:PORT, in order of preference; may be empty.
    pub senders: Vec<String>,
    /// Which epoch the secret is of; without one, that in which the ticket was made.
    pub epoch: Epoch,
    /// Opens and seals what the channel's members say. None: it is given by a sender, to those on the channel's list.
    pub secret: Option<EpochSecret>,
}

/// Why text is no ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin as tickets do.
    #[error("this is no ticket: a ticket begins with `{PREFIX}`; print one with `nackcast channel ticket FILE`")]
    Prefix,
    /// Characters are missing or wrong.
    #[error("the ticket is cut short or mistyped: copy the whole line again")]
    Damaged,
    /// It is whole, but a field is not acceptable.
    #[error("the ticket's {0} is not usable: make a new ticket with this version")]
    Field(&'static str),
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = pb::Ticket {
            channel: self.channel.0.to_vec().into(),
            name: self.name.clone(),
            publisher_key: self.publisher.0.to_vec().into(),
            advertise: self.advertise.to_string(),
            senders: self.senders.clone(),
            epoch: self.epoch.0,
            epoch_secret: self.secret.as_ref().map(|secret| secret.0.to_vec().into()).unwrap_or_default(),
        }
        .encode_to_vec();
        let checksum = blake3_prefix(&bytes);
        bytes.extend(checksum);
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| TicketError::Damaged)?;
        let (message, checksum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(TicketError::Damaged)?;
        if blake3_prefix(message) != *checksum {
            return Err(TicketError::Damaged);
        }
        let message = pb::Ticket::decode(message).map_err(|_| TicketError::Damaged)?;
        let advertise: SocketAddr =
            message.advertise.parse().map_err(|_| TicketError::Field("advertisement address"))?;
        if !advertise.ip().is_multicast() || advertise.port() == 0 {
            return Err(TicketError::Field("advertisement address"));
        }
        if message.senders.len() > SENDERS_MAX || message.name.len() > 255 {
            return Err(TicketError::Field("name or list of senders"));
        }
        let key = message.publisher_key.as_ref().try_into().map_err(|_| TicketError::Field("publisher key"))?;
        let secret = match message.epoch_secret.as_ref() {
            [] => None,
            bytes => Some(EpochSecret::from_slice(bytes).ok_or(TicketError::Field("secret"))?),
        };
        Ok(Self {
            channel: ChannelId::from_slice(&message.channel).ok_or(TicketError::Field("channel"))?,
            name: message.name,
            publisher: VerifyingKey(key),
            advertise,
            senders: message.senders,
            epoch: Epoch(message.epoch),
            secret,
        })
    }
}

fn blake3_prefix(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let prefix = nackcast_common::ids::Digest::of(bytes).0;
    [prefix[0], prefix[1], prefix[2], prefix[3]]
}
