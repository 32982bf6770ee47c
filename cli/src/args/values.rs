//! Values of options that need a form of their own, read alike on the command line and in a TOML file.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use nackcast_common::keys::VerifyingKey;
use serde::{Deserialize, Deserializer};

/// Why a value was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    /// `--channel` needs both parts.
    #[error("`{0}` is not FILE=DIR: give the channel's key file and the directory to send, as in news.key=/srv/news")]
    Channel(String),
    /// `--priority` needs both parts.
    #[error("`{0}` is not GLOB=N: give a pattern and a whole number, as in *.m3u8=10")]
    Priority(String),
    /// An address that receivers can look up.
    #[error("`{0}` is not HOST:PORT: give a name or address and the sender's NACK port, as in cdn1.example.net:7701")]
    HostPort(String),
    /// Where a sender listens.
    #[error("`{0}` is not ADDR:PORT: give an address of this machine and a port, as in [::]:7701 or 192.0.2.5:7701")]
    Listen(String),
    /// Where advertisements go.
    #[error("`{0}` is not GROUP:PORT: give a multicast address and a port, as in 239.192.1.1:7600 or [ff05::77]:7600")]
    Group(String),
    /// Mode bits are octal.
    #[error("`{0}` is not a mode mask: give octal digits up to 7777, as in 0755")]
    ModeMask(String),
    /// A share of datagrams.
    #[error("`{0}` is not a share below 100 %: write for example 2% or 0.5%")]
    Percent(String),
    /// A node's key.
    #[error("`{0}` is no node's key, which has 64 hex digits: run `nackcast identity` at the receiver")]
    Identity(String),
    /// No range and no count of seeds.
    #[error("`{0}` is neither a range of seeds such as 0..1000 nor a count such as 20000")]
    Seeds(String),
}

/// A node's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) VerifyingKey);

impl FromStr for Identity {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        crate::keyfile::identity(text.trim()).map(Self).map_err(|_| ValueError::Identity(text.to_owned()))
    }
}

/// FILE=DIR of `--channel`: a key file and what to send. The first `=` divides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChannelSource {
    pub(crate) key_file: PathBuf,
    pub(crate) directory: PathBuf,
}

impl ChannelSource {
    /// From an argument, which need not be UTF-8.
    pub(crate) fn from_os(text: OsString) -> Result<Self, ValueError> {
        let bytes = text.into_vec();
        let bad = || ValueError::Channel(String::from_utf8_lossy(&bytes).into_owned());
        let divide = bytes.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
        let (key_file, directory) = (&bytes[..divide], &bytes[divide + 1..]);
        if key_file.is_empty() || directory.is_empty() {
            return Err(bad());
        }
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        Ok(Self { key_file: path(key_file), directory: path(directory) })
    }
}

impl FromStr for ChannelSource {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::from_os(text.into())
    }
}

/// GLOB=N of `--priority`. The last `=` divides, since a pattern may contain one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PriorityRule {
    pub(crate) glob: String,
    pub(crate) priority: i32,
}

impl FromStr for PriorityRule {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Priority(text.to_owned());
        let (glob, number) = text.rsplit_once('=').ok_or_else(bad)?;
        if glob.is_empty() {
            return Err(bad());
        }
        Ok(Self { glob: glob.to_owned(), priority: number.trim().parse().map_err(|_| bad())? })
    }
}

/// HOST:PORT of a sender; the host is looked up when it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort(pub(crate) String);

impl FromStr for HostPort {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::HostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '@';
        // A sender's next port is reserved, so the last one is none to give.
        let port: u16 = port.parse().map_err(|_| bad())?;
        if host.is_empty() || bare_v6 || host.contains(odd) || port == 0 || port == u16::MAX {
            return Err(bad());
        }
        Ok(Self(text.to_owned()))
    }
}

/// ADDR:PORT of `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) SocketAddr);

impl FromStr for Listen {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| ValueError::Listen(text.to_owned()))
    }
}

/// GROUP:PORT of `--advertise`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupPort(pub(crate) SocketAddr);

impl FromStr for GroupPort {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| ValueError::Group(text.to_owned()))
    }
}

/// Mode bits that a receiver keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeMask(pub(crate) u32);

impl FromStr for ModeMask {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mask) if mask <= 0o7777 && !digits.starts_with('+') => Ok(Self(mask)),
            _ => Err(ValueError::ModeMask(text.to_owned())),
        }
    }
}

/// A share below 1, as it was written: in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Percent(pub(crate) f64);

impl Percent {
    /// Between 0 and 1.
    pub(crate) fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl FromStr for Percent {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = text.trim().trim_end_matches('%').trim_end();
        match number.parse::<f64>() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err(ValueError::Percent(text.to_owned())),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// Seeds of the simulator: from A to before B, or so many that nobody ran before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seeds {
    /// From the first to before the second.
    Range(u64, u64),
    /// So many.
    Count(u64),
}

impl Seeds {
    /// New seeds begin at this number.
    pub(crate) const fn range(self, new: u64) -> std::ops::Range<u64> {
        match self {
            Self::Range(from, to) => from..to,
            Self::Count(count) => new..new.saturating_add(count),
        }
    }
}

impl FromStr for Seeds {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Seeds(text.to_owned());
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| bad());
        match text.split_once("..") {
            Some((from, to)) => match (number(from)?, number(to)?) {
                (from, to) if from < to => Ok(Self::Range(from, to)),
                _ => Err(bad()),
            },
            None => number(text).map(Self::Count),
        }
    }
}

/// For `deserialize_with`: an optional value in the form it has on the command line.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// For `deserialize_with`: a list of values in the form they have on the command line.
pub(crate) fn list_from_text<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_a_key_file_and_a_directory_that_may_contain_anything() {
        let source: ChannelSource = "a.key=/srv/x=y".parse().unwrap();
        assert_eq!((source.key_file, source.directory), ("a.key".into(), "/srv/x=y".into()));
        let odd = ChannelSource::from_os(OsString::from_vec(b"a.key=/srv/\xff".to_vec())).unwrap();
        assert_eq!(odd.directory.as_os_str().as_bytes(), b"/srv/\xff");
        for bad in ["a.key", "=dir", "a.key=", ""] {
            assert!(bad.parse::<ChannelSource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn senders_are_host_and_port() {
        for good in ["a:1", "cdn1.example.net:7701", "[fd77::1]:7701", "10.0.0.1:65534"] {
            assert!(good.parse::<HostPort>().is_ok(), "{good}");
        }
        for bad in ["a", ":7701", "a:0", "a:65535", "a:65536", "fd77::1:7701", "http://a:80", "a b:7"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn masks_shares_and_priorities_are_read_as_people_write_them() {
        assert_eq!("0755".parse(), Ok(ModeMask(0o755)));
        assert_eq!("0o7777".parse(), Ok(ModeMask(0o7777)));
        for bad in ["", "8", "17777", "+7", "rwx"] {
            assert!(bad.parse::<ModeMask>().is_err(), "{bad}");
        }
        assert_eq!("2%".parse(), Ok(Percent(2.0)));
        assert_eq!("0".parse(), Ok(Percent(0.0)));
        assert_eq!("7 %".parse::<Percent>().unwrap().to_string(), "7 %");
        for bad in ["100%", "-1", "nan", "two"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
        assert_eq!("a=b=-3".parse(), Ok(PriorityRule { glob: "a=b".to_owned(), priority: -3 }));
        for bad in ["*.m3u8", "=1", "a=b"] {
            assert!(bad.parse::<PriorityRule>().is_err(), "{bad}");
        }
    }
}
