//! A receiver's files over HTTP, from verified ones only ([`VerifiedFiles`]).
//!
//! - The ETag is the file's BLAKE3, so it is the same on every node, and changes only with the bytes.
//! - One range in a request; a request for several gets all of the file, as RFC 9110 allows.
//! - Bytes come from the descriptor that was checked: a file that is replaced meanwhile stays what it was.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nackcast_receiver::{NotServed, Verified, VerifiedFiles};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::http::Site;

/// Bytes read at once, and pieces that wait for a slow client.
const PIECE: u64 = 256 << 10;
const QUEUE: usize = 2;
/// A client that takes no piece for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// GET and HEAD of `/content/CHANNEL/PATH`.
pub(super) async fn file(
    State(site): State<Site>,
    Path((channel, path)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let files = match site.desk.chosen(&channel).ok().as_deref() {
        Some([one]) => site.files.borrow().get(*one).cloned(),
        _ => None,
    };
    let Some(files) = files else {
        return (StatusCode::NOT_FOUND, "no such channel is received here\n").into_response();
    };
    let Ok(place) = site.readers.try_acquire_owned() else {
        let retry = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry, "too many files are being read here\n").into_response();
    };
    match tokio::task::spawn_blocking(move || open(&files, &path)).await {
        Ok(Ok(verified)) => answer(verified, place, &method, &headers),
        Ok(Err(NotServed::Unknown)) => (StatusCode::NOT_FOUND, "the dataset has no such file\n").into_response(),
        Ok(Err(NotServed::NotVerified)) => {
            let retry = [(header::RETRY_AFTER, "5")];
            (StatusCode::SERVICE_UNAVAILABLE, retry, "the file is not here yet, or not verified\n").into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn open(files: &VerifiedFiles, path: &str) -> Result<Verified, NotServed> {
    files.open(path)
}

fn answer(verified: Verified, place: OwnedSemaphorePermit, method: &Method, headers: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", verified.digest);
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut response = if text(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &etag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        // A client that has parts of other bytes gets all of these.
        let is_same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
        let wanted = text(header::RANGE).filter(|_| is_same).map(|range| range_of(range, verified.size));
        match wanted.unwrap_or(Wanted::All) {
            Wanted::All => body(verified, place, None, method),
            Wanted::Part(range) => body(verified, place, Some(range), method),
            Wanted::Nothing => {
                let all = [(header::CONTENT_RANGE, format!("bytes */{}", verified.size))];
                (StatusCode::RANGE_NOT_SATISFIABLE, all).into_response()
            }
        }
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn body(verified: Verified, reader: OwnedSemaphorePermit, part: Option<Range<u64>>, method: &Method) -> Response {
    let size = verified.size;
    let range = part.clone().unwrap_or(0..size);
    let status = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let length = [
        (header::CONTENT_LENGTH, (range.end - range.start).to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
    ];
    let place = part.map(|part| [(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1))]);
    let body = if *method == Method::HEAD { Body::empty() } else { stream(verified, reader, range) };
    match place {
        Some(place) => (status, length, place, body).into_response(),
        None => (status, length, body).into_response(),
    }
}

fn stream(verified: Verified, reader: OwnedSemaphorePermit, range: Range<u64>) -> Body {
    let (send, pieces) = mpsc::channel::<std::io::Result<Bytes>>(QUEUE);
    let file = Arc::new(verified.file);
    tokio::spawn(async move {
        let _reader = reader;
        let mut at = range.start;
        while at < range.end {
            let mut piece = vec![0; usize::try_from(PIECE.min(range.end - at)).unwrap_or(0)];
            let (file, from) = (Arc::clone(&file), at);
            at += piece.len() as u64;
            // A thread for the disk only: a client may be slow.
            let reading = tokio::task::spawn_blocking(move || {
                file.read_exact_at(&mut piece, from).map(|()| Bytes::from(piece)).map_err(std::io::Error::from)
            });
            let read = reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let is_over = read.is_err();
            // An error ends the connection, so that nobody takes a part for the whole.
            let sent = tokio::time::timeout(PATIENCE, send.send(read)).await;
            if !matches!(sent, Ok(Ok(()))) || is_over {
                return;
            }
        }
    });
    Body::from_stream(ReceiverStream::new(pieces))
}

fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// What a `Range` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    Nothing,
}

/// What cannot be understood is ignored.
fn range_of(text: &str, size: u64) -> Wanted {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-')) else {
        return Wanted::All;
    };
    let range = match (first.trim().parse::<u64>(), last.trim()) {
        (Ok(first), "") => first..size,
        (Ok(first), last) => match last.parse::<u64>() {
            Ok(last) if last >= first => first..size.min(last.saturating_add(1)),
            _ => return Wanted::All,
        },
        (Err(_), last) if first.trim().is_empty() => match last.parse::<u64>() {
            Ok(count) => size.saturating_sub(count)..size,
            Err(_) => return Wanted::All,
        },
        (Err(_), _) => return Wanted::All,
    };
    if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (text, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=10-", Wanted::Part(10..100)),
            ("bytes=-30", Wanted::Part(70..100)),
            ("bytes=-300", Wanted::Part(0..100)),
            ("bytes=90-200", Wanted::Part(90..100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("bytes=18446744073709551615-", Wanted::Nothing),
            ("bytes=0-18446744073709551615", Wanted::Part(0..100)),
        ] {
            assert_eq!(range_of(text, 100), wanted, "{text}");
        }
        assert_eq!(range_of("bytes=0-", 0), Wanted::Nothing);
        assert!(matches("W/\"a\", \"b\"", "\"b\"") && matches("*", "\"b\"") && !matches("\"a\"", "\"b\""));
    }
}
