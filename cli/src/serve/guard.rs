//! Connections of admins and of HTTP clients, bounded: so many at once, and none that stands still.
//!
//! Who finds all places taken waits in the listener's queue.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

/// A connection on which nothing came or went for so long ends. Clients that wait for news answer pings meanwhile.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// After an error of the listener (no descriptor is free, say), so that one that lasts does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(super) trait Listen: Send {
    /// A connection.
    type Stream: Send;
    /// The next one.
    fn next(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn next(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true).map(|()| stream)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next(&mut self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Gives out places for connections.
#[derive(Debug)]
pub(super) struct Guard {
    places: Arc<Semaphore>,
    idle: Duration,
}

impl Guard {
    /// For so many at once.
    pub(super) fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most)), idle: IDLE_MAX }
    }

    /// The next connection, when there is a place for it.
    pub(super) async fn accept<L: Listen>(&self, listener: &mut L) -> Guarded<L::Stream> {
        // Never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match listener.next().await {
                Ok(stream) => {
                    return Guarded { stream, idle: self.idle, end: Box::pin(sleep(self.idle)), _place: place };
                }
                Err(error) => {
                    tracing::debug!("a connection was not accepted: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// All connections, one after the other.
    pub(super) fn connections<L: Listen>(
        self,
        listener: L,
    ) -> impl Stream<Item = io::Result<Guarded<L::Stream>>> + Send {
        futures_util::stream::unfold((self, listener), |(guard, mut listener)| async move {
            let next = guard.accept(&mut listener).await;
            Some((Ok(next), (guard, listener)))
        })
    }
}

/// A connection with its place.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    idle: Duration,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<S> Guarded<S> {
    /// What the stream did, unless it does nothing for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.end.as_mut().reset(Instant::now() + self.idle);
            return done;
        }
        self.end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, done)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Guarded<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    impl Listen for mpsc::Receiver<DuplexStream> {
        type Stream = DuplexStream;

        async fn next(&mut self) -> io::Result<DuplexStream> {
            self.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
        }
    }

    /// Whoever connects, and a guard for so many of them.
    fn door(most: usize, idle: Duration) -> (mpsc::Sender<DuplexStream>, Guard, mpsc::Receiver<DuplexStream>) {
        let (connects, queue) = mpsc::channel(8);
        (connects, Guard { idle, ..Guard::new(most) }, queue)
    }

    #[tokio::test]
    async fn a_connection_that_stands_still_ends_and_one_that_moves_goes_on() {
        let idle = Duration::from_millis(100);
        let (connects, guard, mut queue) = door(2, idle);
        let ((near, mut far), (silent, _still)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        connects.send(near).await.unwrap();
        connects.send(silent).await.unwrap();
        let (mut moves, mut silent) = (guard.accept(&mut queue).await, guard.accept(&mut queue).await);
        let mut byte = [0];
        let ends = tokio::spawn(async move { silent.read(&mut byte).await });
        while !ends.is_finished() {
            far.write_all(b"x").await.unwrap();
            moves.read_exact(&mut byte).await.unwrap();
            sleep(idle / 20).await;
        }
        assert_eq!(ends.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        // A reader that takes nothing is the same.
        assert_eq!(moves.write_all(&[7; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn there_are_so_many_places() {
        let (connects, guard, mut queue) = door(1, IDLE_MAX);
        for _ in 0..2 {
            connects.send(tokio::io::duplex(1).0).await.unwrap();
        }
        let first = guard.accept(&mut queue).await;
        assert!(timeout(Duration::from_millis(50), guard.accept(&mut queue)).await.is_err());
        drop(first);
        guard.accept(&mut queue).await;
    }
}
