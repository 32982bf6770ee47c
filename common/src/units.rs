//! Rates and sizes as people write them: `800mbit`, `max`, `64MiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A rate in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(pub u64);

/// How fast a sender may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// At most this many bits per second, all headers above Ethernet counted.
    Fixed(BitRate),
    /// As fast as the socket takes it.
    Max,
    /// As fast as the way to the receivers carries, and fair to others on it.
    Auto,
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(pub u64);

/// Why a rate or a size was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number followed by a unit.
    #[error("`{0}` is not a rate of bits: write for example 800mbit, 1.5gbit, 64kbit (at least 8kbit), max or auto")]
    Rate(String),
    /// Neither max nor auto will do.
    #[error("`{0}` is no fixed rate: write for example 800mbit or 64kbit")]
    Number(String),
    /// Not a number followed by a unit.
    #[error("`{0}` is not a size: write for example 64MiB, 4096 or 2GB")]
    Size(String),
}

/// So many of a thing that has a regular plural: `1 file`, `2 files`.
#[must_use]
pub fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn split_number(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim().to_ascii_lowercase()))
}

fn scaled(number: f64, factor: f64) -> Option<u64> {
    let value = number * factor;
    // The range check makes the cast exact enough: a rate or size is no counter.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie in 0..2^53")]
    (0.0..9e15).contains(&value).then_some(value as u64)
}

impl RateLimit {
    /// Each channel's part.
    #[must_use]
    pub fn share(self, channels: usize) -> Self {
        match self {
            Self::Fixed(BitRate(rate)) => Self::Fixed(BitRate((rate / channels.max(1) as u64).max(1))),
            Self::Max => Self::Max,
            Self::Auto => Self::Auto,
        }
    }
}

impl FromStr for RateLimit {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Rate(text.to_owned());
        match text.trim() {
            "max" => return Ok(Self::Max),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        let (number, unit) = split_number(text).ok_or_else(bad)?;
        // mbps, mbit/s and mbits are the same to everybody; what may mean bytes (MB/s) is not guessed at.
        if text.contains("Bps") {
            return Err(bad());
        }
        let unit = unit.strip_suffix("/s").filter(|unit| unit.contains("bit")).unwrap_or(&unit);
        let unit = match unit.strip_suffix("ps") {
            Some(start) if start.ends_with('b') => format!("{start}it"),
            _ => unit.strip_suffix('s').unwrap_or(unit).to_owned(),
        };
        let factor = match unit.as_str() {
            "bit" => 1.0,
            "kbit" => 1e3,
            "mbit" => 1e6,
            "gbit" => 1e9,
            _ => return Err(bad()),
        };
        match scaled(number, factor) {
            Some(rate) if rate >= 8_000 => Ok(Self::Fixed(BitRate(rate))),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1_000, "kbit")] {
            if self.0 >= unit {
                return if self.0.is_multiple_of(unit) {
                    write!(f, "{}{name}", self.0 / unit)
                } else {
                    #[expect(clippy::cast_precision_loss, reason = "for reading only")]
                    let value = self.0 as f64 / unit as f64;
                    let digits = format!("{value:.3}");
                    write!(f, "{}{name}", digits.trim_end_matches('0').trim_end_matches('.'))
                };
            }
        }
        write!(f, "{}bit", self.0)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(rate) => rate.fmt(f),
            Self::Max => f.write_str("max"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for BitRate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text.parse()? {
            RateLimit::Fixed(rate) => Ok(rate),
            RateLimit::Max | RateLimit::Auto => Err(UnitError::Number(text.to_owned())),
        }
    }
}

impl FromStr for ByteCount {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Size(text.to_owned());
        let (number, unit) = split_number(text).ok_or_else(bad)?;
        let factor = match unit.as_str() {
            "" | "b" => 1.0,
            "kib" | "k" => 1024.0,
            "mib" | "m" => 1024.0 * 1024.0,
            "gib" | "g" => 1024.0 * 1024.0 * 1024.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            _ => return Err(bad()),
        };
        scaled(number, factor).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit {
                #[expect(clippy::cast_precision_loss, reason = "for reading only")]
                let value = self.0 as f64 / unit as f64;
                return write!(f, "{value:.1} {name}");
            }
        }
        write!(f, "{} B", self.0)
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
serde_as_text!(RateLimit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_shared_equally() {
        assert_eq!(RateLimit::Fixed(BitRate(900)).share(3), RateLimit::Fixed(BitRate(300)));
        assert_eq!(RateLimit::Fixed(BitRate(1)).share(0), RateLimit::Fixed(BitRate(1)));
        assert_eq!(RateLimit::Max.share(3), RateLimit::Max);
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!("800mbit".parse(), Ok(RateLimit::Fixed(BitRate(800_000_000))));
        assert_eq!("1.5 Gbit".parse(), Ok(RateLimit::Fixed(BitRate(1_500_000_000))));
        for text in ["50mbps", "50 Mbps", "50mbit/s", "50Mbits", "50mbits/s"] {
            assert_eq!(text.parse(), Ok(RateLimit::Fixed(BitRate(50_000_000))), "{text}");
        }
        assert_eq!("max".parse(), Ok(RateLimit::Max));
        assert_eq!("auto".parse::<RateLimit>(), Ok(RateLimit::Auto));
        for bad in ["", "20", "mbit", "-1mbit", "20 parsec", "1bit", "50MB/s", "50mb", "50m", "50m/s", "50MBps"] {
            assert!(bad.parse::<RateLimit>().is_err(), "{bad}");
        }
        assert_eq!(RateLimit::Fixed(BitRate(20_000_000)).to_string(), "20mbit");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!("64MiB".parse(), Ok(ByteCount(64 << 20)));
        assert_eq!("4096".parse(), Ok(ByteCount(4096)));
        assert!("64 apples".parse::<ByteCount>().is_err());
    }
}
