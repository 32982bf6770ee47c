//! Messages on a stream: the length in four bytes, big-endian, then so many bytes.

use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream};

use super::QuicError;

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

/// Reads a message; none at the stream's end.
pub(super) async fn read(stream: &mut RecvStream, longest: usize) -> Result<Option<Bytes>, QuicError> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(broken(error)),
    }
    let length = u32::from_be_bytes(head);
    if length as usize > longest {
        return Err(QuicError::TooLong(length.into()));
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message).await.map_err(broken)?;
    Ok(Some(message.into()))
}
