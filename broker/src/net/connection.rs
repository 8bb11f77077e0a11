//! One client's connection: one task that reads, begins requests in order and writes their answers in order.
//!
//! A request *begins* (takes effect) the moment its frame is whole and its turn has come; its answer may wait
//! (for a flush, for data) while later requests begin. Answers leave in the order of the requests. There is
//! no second task and no queue between reading and writing: a produce costs no hop to another thread.
//! Backpressure is the socket's: while an answer is being written, or `REQUESTS_PENDING_PER_CONNECTION_MAX`
//! answers are owed, or answers of `READY_BYTES_PER_CONNECTION_MAX` wait,
//! or the memory budget is used up, nothing is read. Invariants: 3 (answers wait for what
//! they promise), 16 (every wait here has a bound).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use highwater_model::limits::{
    CONNECTION_CHECK_MS, FRAME_ARRIVAL_MS_MAX, FRAME_BYTES_PER_SECOND_MIN, READY_BYTES_PER_CONNECTION_MAX,
    REQUESTS_PENDING_PER_CONNECTION_MAX,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{AcquireError, watch};
use tokio::time::Sleep;

use super::budget::{Share, ShareWait};
use super::frame::FrameReader;
use super::reply::{Answer, CloseReason, Later, Reply};
use super::writer::{WriteLimits, write_reply};
use crate::dispatch;
use crate::metrics::RefusedKind;
use crate::node::Node;

/// An answer that is owed, in the order of the requests.
struct Pending {
    api_key: i16,
    begun: Instant,
    answer: Owed,
}

enum Owed {
    Ready(Reply),
    Waiting(Later),
}

/// What woke the task.
enum Event {
    Answered(Result<Reply, CloseReason>),
    Read(io::Result<usize>),
    Memory(Result<Share, AcquireError>),
    Check,
    Shutdown,
}

/// How a connection ended.
enum End {
    /// The client went, or its socket failed.
    Gone,
    Refused(CloseReason),
}

type StopWait = Pin<Box<dyn Future<Output = ()> + Send>>;

pub struct Connection {
    node: Arc<Node>,
    stream: TcpStream,
    peer: IpAddr,
    reader: FrameReader,
    pending: VecDeque<Pending>,
    /// In memory, of the answers in `pending` that are ready.
    ready_bytes: usize,
    /// The newest request runs alone: nothing begins before it is answered.
    is_alone: bool,
    /// The client has closed its side; answers owed are still sent.
    is_read_closed: bool,
    is_stopping: bool,
    /// The frame at the front waits for memory since then; that is not the client's slowness.
    memory_wait: Option<(Instant, ShareWait)>,
    stop_wait: StopWait,
    check: Pin<Box<Sleep>>,
    /// Bytes or answers moved since the last check.
    moved: bool,
    quiet_since: Instant,
    frame_since: Option<Instant>,
}

impl Connection {
    pub fn new(
        node: Arc<Node>,
        stream: TcpStream,
        peer: IpAddr,
        mut stop: watch::Receiver<bool>,
    ) -> Connection {
        let stop_wait = Box::pin(async move {
            // The sender lives as long as the node; if it is gone, so is the node.
            let _ = stop.wait_for(|stopping| *stopping).await;
        });
        let check = Box::pin(tokio::time::sleep(check_interval(&node)));
        Connection {
            node,
            stream,
            peer,
            reader: FrameReader::default(),
            pending: VecDeque::new(),
            ready_bytes: 0,
            is_alone: false,
            is_read_closed: false,
            is_stopping: false,
            memory_wait: None,
            stop_wait,
            check,
            moved: false,
            quiet_since: Instant::now(),
            frame_since: None,
        }
    }

    /// Serves the connection until it ends.
    pub async fn run(mut self) {
        let Err(end) = self.serve().await;
        match end {
            End::Gone => {}
            End::Refused(reason) => self.node.refusals.closed(self.peer, &reason),
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            self.write_ready().await?;
            if self.can_begin() {
                if self.begin_next()? {
                    continue;
                }
                if self.is_read_closed && self.pending.is_empty() {
                    return Err(End::Gone);
                }
            }
            if self.is_stopping && self.pending.is_empty() {
                return Err(End::Gone);
            }
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Answered(answer) => self.answered(answer)?,
                Event::Read(read) => self.was_read(read)?,
                Event::Memory(share) => {
                    let waited = self.memory_wait.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                    self.frame_since = self.frame_since.map(|since| since + waited);
                    self.reader.add_memory(share.map_err(|_| End::Gone)?);
                }
                Event::Check => self.checked()?,
                Event::Shutdown => self.is_stopping = true,
            }
        }
    }

    fn can_begin(&self) -> bool {
        !self.is_alone
            && !self.is_stopping
            && self.pending.len() < REQUESTS_PENDING_PER_CONNECTION_MAX
            && self.ready_bytes < READY_BYTES_PER_CONNECTION_MAX
    }

    /// Sends the answers at the front that are ready.
    async fn write_ready(&mut self) -> Result<(), End> {
        while let Some(Pending { answer: Owed::Ready(_), .. }) = self.pending.front() {
            let Some(Pending { api_key, begun, answer: Owed::Ready(reply) }) = self.pending.pop_front()
            else {
                unreachable!("the front was looked at");
            };
            self.ready_bytes -= reply.memory_bytes();
            self.node.metrics.request(api_key, begun.elapsed());
            let idle = Duration::from_millis(self.node.settings.connection_idle_ms);
            match write_reply(&self.stream, &reply, WriteLimits::of(&reply, idle)).await {
                Ok(sent) => {
                    self.node.metrics.bytes_out.inc_by(sent);
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut || e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(End::Refused(CloseReason::new(e.to_string())));
                }
                Err(_) => return Err(End::Gone),
            }
            self.moved = true;
            if self.pending.is_empty() {
                self.is_alone = false;
            }
        }
        Ok(())
    }

    /// Begins the next request if its frame is whole.
    fn begin_next(&mut self) -> Result<bool, End> {
        let next = self.reader.take().map_err(|bad| {
            self.node.metrics.refused(RefusedKind::Frame);
            End::Refused(bad.into())
        })?;
        let Some(frame) = next else {
            return Ok(false);
        };
        self.frame_since = None;
        self.moved = true;
        self.node.metrics.bytes_in.inc_by(frame.bytes.len() as u64 + 4);
        let begun = Instant::now();
        let (api_key, answer) = dispatch::begin(&self.node, self.peer, frame.bytes);
        let answer = match answer {
            Answer::Now(reply) => {
                self.ready_bytes += reply.memory_bytes();
                Owed::Ready(reply)
            }
            Answer::Later(later) => Owed::Waiting(later),
            Answer::Alone(later) => {
                self.is_alone = true;
                Owed::Waiting(later)
            }
            Answer::Silent => {
                self.node.metrics.request(api_key, begun.elapsed());
                return Ok(true);
            }
            Answer::Close(reason) => return Err(End::Refused(reason)),
        };
        self.pending.push_back(Pending { api_key, begun, answer });
        Ok(true)
    }

    fn answered(&mut self, answer: Result<Reply, CloseReason>) -> Result<(), End> {
        let reply = answer.map_err(End::Refused)?;
        self.ready_bytes += reply.memory_bytes();
        let front = self.pending.front_mut().expect("the front was polled");
        front.answer = Owed::Ready(reply);
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(Pending { answer: Owed::Waiting(later), .. }) = self.pending.front_mut()
            && let Poll::Ready(answer) = later.as_mut().poll(cx)
        {
            return Poll::Ready(Event::Answered(answer));
        }
        if self.can_begin() && !self.is_read_closed {
            if self.memory_wait.is_none() {
                self.ask_for_memory();
            }
            match &mut self.memory_wait {
                Some((_, wait)) => {
                    if let Poll::Ready(share) = wait.as_mut().poll(cx) {
                        return Poll::Ready(Event::Memory(share));
                    }
                }
                None => {
                    if let Poll::Ready(read) = self.poll_read(cx) {
                        return Poll::Ready(Event::Read(read));
                    }
                }
            }
        }
        if self.check.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Check);
        }
        if !self.is_stopping && self.stop_wait.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Shutdown);
        }
        Poll::Pending
    }

    /// Takes the frame's further share of the memory budget, or begins to wait for it.
    fn ask_for_memory(&mut self) {
        let units = self.reader.wanted_units();
        if units == 0 {
            return;
        }
        let budget = &self.node.request_budget;
        match budget.try_take(units) {
            Some(share) => self.reader.add_memory(share),
            None => {
                let wait = budget.take(units, self.reader.holds_memory());
                self.memory_wait = Some((Instant::now(), wait));
            }
        }
    }

    /// Reads what has arrived. A buffer is taken only once something has: most connections are idle.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_read_ready(cx))?;
        let mut room = self.reader.room();
        // Unlike `try_read_buf`, this knows that a short read has left nothing, and does not try again.
        pin!(self.stream.read_buf(&mut room)).poll(cx)
    }

    fn was_read(&mut self, read: io::Result<usize>) -> Result<(), End> {
        match read {
            Ok(0) => {
                self.is_read_closed = true;
                if self.pending.is_empty() { Err(End::Gone) } else { Ok(()) }
            }
            Ok(_) => {
                self.moved = true;
                if self.frame_since.is_none() {
                    self.frame_since = Some(Instant::now());
                }
                Ok(())
            }
            Err(_) => Err(End::Gone),
        }
    }

    /// The periodic look: closes what is idle or stuck, gives a large buffer back.
    fn checked(&mut self) -> Result<(), End> {
        self.check = Box::pin(tokio::time::sleep(check_interval(&self.node)));
        let now = Instant::now();
        if self.reader.is_partial() && self.can_begin() && self.memory_wait.is_none() {
            let seconds = self.reader.expected_bytes() / FRAME_BYTES_PER_SECOND_MIN;
            let allowed = Duration::from_millis(frame_ms(&self.node)) + Duration::from_secs(seconds as u64);
            if self.frame_since.is_some_and(|since| now.duration_since(since) > allowed) {
                let text = format!("a request of {} bytes arrives too slowly", self.reader.expected_bytes());
                return Err(End::Refused(CloseReason::new(text)));
            }
        }
        if std::mem::take(&mut self.moved) || !self.pending.is_empty() {
            self.quiet_since = now;
            return Ok(());
        }
        self.reader.shrink();
        let idle = Duration::from_millis(self.node.settings.connection_idle_ms);
        if now.duration_since(self.quiet_since) >= idle { Err(End::Gone) } else { Ok(()) }
    }
}

fn frame_ms(node: &Node) -> u64 {
    node.settings.connection_idle_ms.min(FRAME_ARRIVAL_MS_MAX)
}

fn check_interval(node: &Node) -> Duration {
    Duration::from_millis((node.settings.connection_idle_ms / 4).clamp(10, CONNECTION_CHECK_MS))
}
