//! Messages on a stream: the length in four bytes, big-endian, then so many bytes.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::SendStream;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::{IDLE_MAX, QuicError};

fn broken(error: impl std::fmt::Display) -> QuicError {
    QuicError::Broken(error.to_string())
}

/// Writes a message.
pub(super) async fn write(stream: &mut SendStream, message: &[u8]) -> Result<(), QuicError> {
    stream.write_all(&head(message)).await.map_err(broken)?;
    stream.write_all(message).await.map_err(broken)
}

/// What stands before a message.
pub(super) fn head(message: &[u8]) -> [u8; 4] {
    u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads a message; none at the stream's end. However slow the peer is, it goes on as long as bytes come.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), longest: usize) -> Result<Option<Bytes>, QuicError> {
    read_within(stream, longest, IDLE_MAX).await
}

async fn read_within(
    stream: &mut (impl AsyncRead + Unpin),
    longest: usize,
    idle: Duration,
) -> Result<Option<Bytes>, QuicError> {
    let head = fill(stream, 4, idle).await?;
    let head: [u8; 4] = match head.as_ref().try_into() {
        Ok(head) => head,
        Err(_) if head.is_empty() => return Ok(None),
        Err(_) => return Err(QuicError::Broken(CUT_SHORT.to_owned())),
    };
    let length = u32::from_be_bytes(head) as usize;
    if length > longest {
        return Err(QuicError::TooLong(length as u64));
    }
    let message = fill(stream, length, idle).await?;
    if message.len() < length {
        return Err(QuicError::Broken(CUT_SHORT.to_owned()));
    }
    Ok(Some(message))
}

const CUT_SHORT: &str = "the stream ended within a message";

/// So many bytes; fewer if the stream ends.
async fn fill(stream: &mut (impl AsyncRead + Unpin), length: usize, idle: Duration) -> Result<Bytes, QuicError> {
    let mut buffer = BytesMut::with_capacity(length).limit(length);
    while buffer.has_remaining_mut() {
        let some = timeout(idle, stream.read_buf(&mut buffer)).await;
        let some = some.map_err(|_| QuicError::Broken("nothing came for too long".to_owned()))?;
        if some.map_err(broken)? == 0 {
            break;
        }
    }
    Ok(buffer.into_inner().freeze())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_message_that_stands_still_is_broken() {
        let (mut far, mut near) = tokio::io::duplex(64);
        far.write_all(&[0, 0, 0, 3, 7, 8, 9, 0, 0, 0, 2, 1]).await.unwrap();
        let idle = Duration::from_millis(10);
        assert_eq!(read_within(&mut near, 3, idle).await.unwrap().unwrap(), [7, 8, 9][..]);
        let stuck = read_within(&mut near, 3, idle).await;
        assert!(matches!(stuck, Err(QuicError::Broken(why)) if why.contains("too long")));
    }

    #[tokio::test]
    async fn what_ends_between_messages_is_over_and_within_one_is_broken() {
        let mut bytes = &[0, 0, 0, 0, 0, 0, 0, 1, 5][..];
        assert_eq!(read(&mut bytes, 1).await.unwrap(), Some(Bytes::new()));
        assert_eq!(read(&mut bytes, 1).await.unwrap().unwrap(), [5][..]);
        assert_eq!(read(&mut bytes, 1).await.unwrap(), None);
        assert!(read(&mut &[0, 0][..], 1).await.is_err());
        assert!(read(&mut &[0, 0, 0, 2, 5][..], 2).await.is_err());
        assert!(matches!(read(&mut &[0, 0, 0, 2, 5, 5][..], 1).await, Err(QuicError::TooLong(2))));
    }
}
