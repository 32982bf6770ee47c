//! Key files: what a channel's sender must know and nobody else, as TOML.
//!
//! - A *publisher's* key file holds the publisher key: it may publish, certify senders and print tickets.
//! - A *delegated* one holds a sender key and the publisher's certificate for it instead: it serves, and cannot publish.
//! - Either may hold a list of receivers: then their tickets hold no secret, and a sender gives it to those on the list.
//! - What was parsed is checked: a certificate in a [`KeyFile`] verifies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use nackcast_common::admission::{Admission, RECEIVERS_MAX};
use nackcast_common::ids::{ChannelId, Epoch};
use nackcast_common::keys::{SenderMaster, Signature, SigningKey, VerifyingKey};
use nackcast_common::private_file::{lock, replace};
use nackcast_proto::ticket::{Ticket, TicketError};
use nackcast_proto::wire::SenderCertificate;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::config_file;
use crate::failure::{Failure, OrFail};
use crate::private_file;

/// Version of the format that this build writes, and the newest that it reads.
const VERSION: u32 = 1;
const HEAD: &str = "\
# A nackcast channel's key file. Whoever reads it can send on the channel: keep it secret, keep a copy safe.
# Its ticket, for receivers: nackcast channel ticket FILE\n";

/// A key file's contents.
#[derive(Debug)]
pub(crate) struct KeyFile {
    pub(crate) channel: ChannelId,
    pub(crate) name: String,
    pub(crate) advertise: SocketAddr,
    pub(crate) senders: Vec<String>,
    /// The epoch, and who is let in.
    pub(crate) admission: Admission,
    pub(crate) master: SenderMaster,
    pub(crate) authority: Authority,
}

/// What the holder of a key file may do.
#[derive(Debug)]
pub(crate) enum Authority {
    /// Publish.
    Publisher(SigningKey),
    /// Serve what the publisher published.
    Delegated { publisher: VerifyingKey, sender: SigningKey, certificate: SenderCertificate },
}

/// How receivers get the secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AdmissionMode {
    /// The ticket holds it
    #[default]
    Ticket,
    /// A sender gives it to those on a list
    AllowList,
}

/// A receiver on the list, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawReceiver {
    key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
}

/// The file as it is written.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    version: u32,
    channel: String,
    name: String,
    advertise: String,
    #[serde(default)]
    senders: Vec<String>,
    epoch: u32,
    #[serde(default)]
    #[zeroize(skip)]
    admission: AdmissionMode,
    sender_master: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher_seed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_seed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_certificate: Option<String>,
    /// Last, since a table ends the keys before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[zeroize(skip)]
    receivers: Vec<RawReceiver>,
}

/// Only the version, which every later format keeps.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl KeyFile {
    /// Reads and checks a key file.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let text = private_file::read(path, "key file")?;
        if !matches!(text.parse::<Ticket>(), Err(TicketError::Prefix)) {
            return Err(Failure::usage(format_args!(
                "{} is a ticket, which is for receivers: give the channel's key file, as `nackcast channel new` made it",
                path.display()
            )));
        }
        Self::parse(&text).map_err(|problem| {
            Failure::usage(format_args!("key file {}: {problem}; restore it from a copy", path.display()))
        })
    }

    /// Whether a text is meant to be a key file, sound or not.
    pub(crate) fn looks_like(text: &str) -> bool {
        text.lines().any(|line| line.starts_with("sender-master"))
    }

    /// Writes a new key file.
    pub(crate) fn create(&self, path: &Path) -> Result<(), Failure> {
        private_file::create(path, &self.text()?)
    }

    /// Reads a key file, changes it, and writes it in its place. Two that do so at once do it one after the other.
    pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Self) -> Result<(), Failure>) -> Result<Self, Failure> {
        let _lock = lock(path);
        let mut file = Self::load(path)?;
        change(&mut file)?;
        let text = file.text()?;
        replace(path, text.as_bytes()).or_running(format_args!("{} cannot be replaced", path.display()))?;
        Ok(file)
    }

    fn text(&self) -> Result<Zeroizing<String>, Failure> {
        let body = Zeroizing::new(toml::to_string(&self.to_raw()).or_running("the key file cannot be encoded")?);
        Ok(Zeroizing::new(format!("{HEAD}{}", *body)))
    }

    /// What receivers need.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            channel: self.channel,
            name: self.name.clone(),
            publisher: self.publisher_key(),
            advertise: self.advertise,
            senders: self.senders.clone(),
            epoch: self.admission.epoch,
            // Who is on the list asks a sender.
            secret: self.admission.receivers.is_none().then(|| self.master.epoch(self.channel, self.admission.epoch)),
        }
    }

    /// What a sender has itself.
    pub(crate) fn sender_ticket(&self) -> Ticket {
        Ticket { secret: Some(self.master.epoch(self.channel, self.admission.epoch)), ..self.ticket() }
    }

    /// From now on another epoch: whoever holds only the secret of this one reads nothing newer.
    pub(crate) fn rotate(&mut self) -> Result<(), Failure> {
        let next = self.admission.epoch.0.checked_add(1);
        self.admission.epoch = Epoch(next.ok_or_else(|| Failure::usage("there is no epoch after this one"))?);
        Ok(())
    }

    /// Who signs manifests.
    pub(crate) fn publisher_key(&self) -> VerifyingKey {
        match &self.authority {
            Authority::Publisher(key) => key.verifying_key(),
            Authority::Delegated { publisher, .. } => *publisher,
        }
    }

    fn to_raw(&self) -> Raw {
        let mut raw = Raw {
            version: VERSION,
            channel: self.channel.to_string(),
            name: self.name.clone(),
            advertise: self.advertise.to_string(),
            senders: self.senders.clone(),
            epoch: self.admission.epoch.0,
            admission: if self.admission.receivers.is_some() {
                AdmissionMode::AllowList
            } else {
                AdmissionMode::Ticket
            },
            sender_master: BASE64.encode(&self.master.0),
            publisher_seed: None,
            publisher_key: None,
            sender_seed: None,
            sender_certificate: None,
            receivers: self.admission.receivers.iter().flatten().map(RawReceiver::from).collect(),
        };
        match &self.authority {
            Authority::Publisher(key) => raw.publisher_seed = Some(BASE64.encode(key.seed())),
            Authority::Delegated { publisher, sender, certificate } => {
                raw.publisher_key = Some(publisher.to_string());
                raw.sender_seed = Some(BASE64.encode(sender.seed()));
                raw.sender_certificate = Some(BASE64.encode(&certificate.signature.0));
            }
        }
        raw
    }

    fn parse(text: &str) -> Result<Self, String> {
        // First the version alone: a newer format may have keys that this one does not know.
        let Version { version } = toml::from_str(text).map_err(|_| "this is no key file".to_owned())?;
        if version > VERSION {
            return Err(format!("it has version {version}, and this nackcast reads up to {VERSION}: update nackcast"));
        }
        let raw: Raw = config_file::parse(text).map_err(|problem| format!("line {problem}"))?;
        let channel = hex(&raw.channel, "channel").map(ChannelId)?;
        let advertise: SocketAddr =
            raw.advertise.parse().map_err(|_| "key `advertise` is not GROUP:PORT".to_owned())?;
        check_advertise(advertise)?;
        let (authority, receivers) = (authority(&raw, channel)?, receivers(&raw)?);
        Ok(Self {
            channel,
            name: raw.name.clone(),
            advertise,
            senders: raw.senders.clone(),
            admission: Admission { epoch: Epoch(raw.epoch), receivers },
            master: SenderMaster(base64(&raw.sender_master, "sender-master")?),
            authority,
        })
    }
}

impl From<(&VerifyingKey, &String)> for RawReceiver {
    fn from((key, name): (&VerifyingKey, &String)) -> Self {
        Self { key: key.to_string(), name: name.clone() }
    }
}

/// A receiver's key, as `nackcast identity` prints it.
pub(crate) fn identity(text: &str) -> Result<VerifyingKey, String> {
    hex(text, "key").map(VerifyingKey)
}

fn receivers(raw: &Raw) -> Result<Option<BTreeMap<VerifyingKey, String>>, String> {
    match raw.admission {
        AdmissionMode::Ticket if raw.receivers.is_empty() => Ok(None),
        AdmissionMode::Ticket => {
            Err("it lists `receivers`, which only `admission = \"allow-list\"` looks at".to_owned())
        }
        AdmissionMode::AllowList if raw.receivers.len() > RECEIVERS_MAX => {
            Err(format!("it lists more than {RECEIVERS_MAX} receivers"))
        }
        AdmissionMode::AllowList => {
            let listed = |receiver: &RawReceiver| Ok((identity(&receiver.key)?, receiver.name.clone()));
            raw.receivers.iter().map(listed).collect::<Result<_, _>>().map(Some)
        }
    }
}

/// The publisher's key, or a sender's with its certificate: one of the two, and whole.
fn authority(raw: &Raw, channel: ChannelId) -> Result<Authority, String> {
    match (&raw.publisher_seed, &raw.publisher_key, &raw.sender_seed, &raw.sender_certificate) {
        (Some(seed), None, None, None) => {
            Ok(Authority::Publisher(SigningKey::from_seed(base64(seed, "publisher-seed")?)))
        }
        (None, Some(publisher), Some(seed), Some(signature)) => {
            let publisher = VerifyingKey(hex(publisher, "publisher-key")?);
            let sender = SigningKey::from_seed(base64(seed, "sender-seed")?);
            let signature = Signature(base64(signature, "sender-certificate")?);
            let certificate = SenderCertificate { sender_key: sender.verifying_key(), signature };
            certificate
                .verify(&publisher, channel)
                .map_err(|_| "the publisher's certificate does not fit the sender key".to_owned())?;
            Ok(Authority::Delegated { publisher, sender, certificate })
        }
        _ => {
            Err("it needs either `publisher-seed`, or `publisher-key`, `sender-seed` and `sender-certificate`"
                .to_owned())
        }
    }
}

/// Whether advertisements can go there: multicast, with a port whose successor exists (data goes there).
pub(crate) fn check_advertise(address: SocketAddr) -> Result<(), String> {
    if !address.ip().is_multicast() {
        return Err(format!(
            "{} is not a multicast address: take one from 239.192.0.0/14, or ff00::/8 for IPv6",
            address.ip()
        ));
    }
    if matches!(address.port(), 0 | u16::MAX) {
        return Err(format!(
            "port {} cannot be used, since data goes to the next one: take one from 1 to 65534, such as 7600",
            address.port()
        ));
    }
    Ok(())
}

fn hex<const N: usize>(text: &str, key: &str) -> Result<[u8; N], String> {
    exact(HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok())
        .ok_or_else(|| format!("key `{key}` is not {} hex digits", 2 * N))
}

fn base64<const N: usize>(text: &str, key: &str) -> Result<[u8; N], String> {
    exact(BASE64.decode(text.as_bytes()).ok()).ok_or_else(|| format!("key `{key}` is not {N} bytes of base64"))
}

fn exact<const N: usize>(bytes: Option<Vec<u8>>) -> Option<[u8; N]> {
    Zeroizing::new(bytes?).as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher_file() -> KeyFile {
        KeyFile {
            channel: ChannelId([7; 16]),
            name: "news".to_owned(),
            advertise: "239.195.7.7:7600".parse().unwrap(),
            senders: vec!["cdn1:7701".to_owned()],
            admission: Admission { epoch: Epoch(1), receivers: None },
            master: SenderMaster([1; 32]),
            authority: Authority::Publisher(SigningKey::from_seed([2; 32])),
        }
    }

    fn delegated_file() -> KeyFile {
        let publisher = SigningKey::from_seed([2; 32]);
        let sender = SigningKey::from_seed([3; 32]);
        let certificate = SenderCertificate::issue(&publisher, ChannelId([7; 16]), sender.verifying_key());
        let authority = Authority::Delegated { publisher: publisher.verifying_key(), sender, certificate };
        KeyFile { authority, ..publisher_file() }
    }

    fn listing_file() -> KeyFile {
        let receivers = [([4; 32], "cache 1"), ([5; 32], "")].map(|(key, name)| (VerifyingKey(key), name.to_owned()));
        let admission = Admission { epoch: Epoch(7), receivers: Some(receivers.into()) };
        KeyFile { admission, ..delegated_file() }
    }

    fn text(file: &KeyFile) -> String {
        toml::to_string(&file.to_raw()).unwrap()
    }

    #[test]
    fn a_key_file_comes_back_as_it_was_written() {
        let empty = Admission { epoch: Epoch(2), receivers: Some(BTreeMap::new()) };
        let none_yet = KeyFile { admission: empty, ..publisher_file() };
        for file in [publisher_file(), delegated_file(), listing_file(), none_yet] {
            let again = KeyFile::parse(&text(&file)).unwrap();
            assert_eq!(text(&again), text(&file));
            assert_eq!(again.ticket().to_string(), file.ticket().to_string());
            assert_eq!(again.admission, file.admission);
            assert_eq!(again.ticket().secret.is_none(), file.admission.receivers.is_some(), "a list, or a secret");
        }
        assert_eq!(publisher_file().ticket().to_string(), delegated_file().ticket().to_string());
    }

    #[test]
    fn a_damaged_key_file_says_what_is_wrong() {
        let good = text(&publisher_file());
        let error = |text: &str| KeyFile::parse(text).unwrap_err();
        assert!(error("hello").contains("no key file"));
        assert!(error(&good.replace("version = 1", "version = 2")).contains("update nackcast"));
        assert!(error(&good.replace("epoch", "epock")).contains("epock"));
        assert!(error(&good.replace("239.195", "10.1")).contains("not a multicast address"));
        assert!(error(&good.replace("7600", "65535")).contains("port 65535"));
        assert!(error(&good.replace("0707", "07")).contains("32 hex digits"));
        assert!(error(&good.replace("publisher-seed", "sender-seed")).contains("either"));
        let listed = text(&listing_file());
        assert!(error(&listed.replace("allow-list", "ticket")).contains("`receivers`"));
        assert!(error(&listed.replace("0404", "04")).contains("64 hex digits"));
        let other_channel = text(&delegated_file()).replace("0707", "0808");
        assert!(error(&other_channel).contains("certificate"));
    }

    #[test]
    fn a_file_from_before_there_were_lists_has_none() {
        let former = text(&publisher_file()).replace("admission = \"ticket\"\n", "");
        assert_eq!(KeyFile::parse(&former).unwrap().admission, publisher_file().admission);
    }

    #[test]
    fn an_epoch_has_a_secret_of_its_own() {
        let mut file = publisher_file();
        file.rotate().unwrap();
        assert_eq!(file.admission.epoch, Epoch(2));
        assert_ne!(file.ticket().secret, publisher_file().ticket().secret);
        file.admission.epoch = Epoch(u32::MAX);
        assert_eq!(file.rotate().unwrap_err().exit_code(), 2);
    }

    #[test]
    fn no_secret_is_printed() {
        let shown = format!("{:?}", publisher_file());
        assert!(!shown.contains("1, 1, 1") && !shown.contains("2, 2, 2"), "{shown}");
    }
}
