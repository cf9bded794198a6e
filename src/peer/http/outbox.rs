//! The bounded queue of frames between those who send on a connection and the task that writes it.
//!
//! Frames are numbered 1, 2, 3, ... in the order of the queue. A frame whose number is above the
//! count of those taken was provably not written: that is what [`CallError::NotSent`] rests on. A
//! frame that was taken counts as written, though the socket may not have accepted it.
//!
//! [`CallError::NotSent`]: crate::peer::CallError::NotSent

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use crate::peer::http::frame::{Frame, FrameKind};
use crate::peer::http::options::HttpOptions;
use crate::peer::transport::{BreakReason, NotSentReason};

/// How many bytes one taking hands out, unless the first frame alone is larger.
const TAKE_BYTES: usize = 256 << 10;
/// How many frames one taking hands out.
const TAKE_FRAMES: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    writer: AtomicWaker,
    max_frame_bytes: usize,
    max_bytes: usize,
    max_frames: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// `None`: withdrawn. The place is kept, so that a number tells a place.
    frames: VecDeque<Option<Frame>>,
    bytes: usize,
    /// The number of the last frame taken.
    taken: u64,
    ended: Option<BreakReason>,
}

impl Outbox {
    pub(super) fn new(options: &HttpOptions) -> Self {
        Self {
            queue: Mutex::default(),
            writer: AtomicWaker::new(),
            max_frame_bytes: options.max_frame_bytes.min(u32::MAX as usize),
            max_bytes: options.max_queue_bytes,
            max_frames: options.max_queue_frames,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds the queue")
    }

    /// Queues a frame within the bounds and gives its number. A request's correlation is that
    /// number; what was passed in is replaced.
    ///
    /// # Errors
    /// The frame is larger than allowed, the queue is full or the connection has ended: it was and
    /// will not be sent.
    pub(super) fn push(&self, frame: Frame) -> Result<u64, NotSentReason> {
        if frame.payload.len() > self.max_frame_bytes {
            return Err(NotSentReason::TooLarge);
        }
        let mut queue = self.lock();
        let bytes = queue.bytes + frame.wire_bytes();
        let full = queue.frames.len() >= self.max_frames || bytes > self.max_bytes;
        if full && !queue.frames.is_empty() {
            return Err(NotSentReason::QueueFull);
        }
        queue.push(frame).map(|number| self.wake(queue, number))
    }

    /// Queues an answer or a pong, which the bounds do not refuse: its sender holds back further
    /// requests instead.
    pub(super) fn push_answer(&self, frame: Frame) -> Result<u64, NotSentReason> {
        if frame.payload.len() > self.max_frame_bytes {
            return Err(NotSentReason::TooLarge);
        }
        let mut queue = self.lock();
        queue.push(frame).map(|number| self.wake(queue, number))
    }

    /// Only the first frame wakes: with more in the queue, the writer has yet to come for that.
    fn wake(&self, queue: MutexGuard<'_, Queue>, number: u64) -> u64 {
        let first = queue.frames.len() == 1;
        drop(queue);
        if first {
            self.writer.wake();
        }
        number
    }

    /// Takes a frame back. True if it was still queued, and so will never be written.
    pub(super) fn withdraw(&self, number: u64) -> bool {
        let mut queue = self.lock();
        let Some(place) = number.checked_sub(queue.taken + 1) else { return false };
        let Ok(place) = usize::try_from(place) else { return false };
        let Some(frame) = queue.frames.get_mut(place).and_then(Option::take) else { return false };
        queue.bytes -= frame.wire_bytes();
        true
    }

    /// Names the task to wake when there is something to write. Before looking, at each poll: a
    /// wake-up uses it up.
    pub(super) fn register(&self, context: &Context<'_>) {
        self.writer.register(context.waker());
    }

    /// For the writer: moves the next frames into `batch`. False if none wait.
    ///
    /// # Errors
    /// Why the connection ended.
    pub(super) fn take(&self, batch: &mut Vec<Frame>) -> Result<bool, BreakReason> {
        let mut queue = self.lock();
        if let Some(reason) = queue.ended {
            return Err(reason);
        }
        let mut bytes = 0;
        while bytes < TAKE_BYTES
            && batch.len() < TAKE_FRAMES
            && let Some(frame) = queue.frames.pop_front()
        {
            queue.taken += 1;
            let Some(frame) = frame else { continue };
            bytes += frame.wire_bytes();
            batch.push(frame);
        }
        queue.bytes -= bytes;
        Ok(bytes > 0)
    }

    /// Ends the connection, unless it has ended already: nothing is taken any more, the writing
    /// task is woken. Gives the reason that holds and the number of the last frame taken: those
    /// above it were provably not written.
    pub(super) fn end(&self, reason: BreakReason) -> (BreakReason, u64) {
        let mut queue = self.lock();
        let reason = *queue.ended.get_or_insert(reason);
        queue.frames = VecDeque::new();
        queue.bytes = 0;
        let taken = queue.taken;
        drop(queue);
        self.writer.wake();
        (reason, taken)
    }

    /// Wakes the task that writes, for it to look at what else it waits for.
    pub(super) fn wake_writer(&self) {
        self.writer.wake();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Bytes that wait to be taken.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.lock().bytes
    }
}

impl Queue {
    fn push(&mut self, mut frame: Frame) -> Result<u64, NotSentReason> {
        if self.ended.is_some() {
            return Err(NotSentReason::ConnectionEnded);
        }
        let number = self.taken + self.frames.len() as u64 + 1;
        if frame.kind == FrameKind::Request {
            frame.correlation = number;
        }
        self.bytes += frame.wire_bytes();
        self.frames.push_back(Some(frame));
        Ok(number)
    }
}

/// A frame without payload.
pub(super) fn bare(kind: FrameKind, correlation: u64) -> Frame {
    Frame::new(kind, correlation, Bytes::new())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Outbox;
    use crate::peer::http::frame::{Frame, FrameKind, HEAD_BYTES};
    use crate::peer::http::options::HttpOptions;
    use crate::peer::transport::{BreakReason, NotSentReason};

    fn request(bytes: usize) -> Frame {
        Frame::new(FrameKind::Request, 0, Bytes::from(vec![0; bytes]))
    }

    fn outbox() -> Outbox {
        let bytes = 2 * (10 + HEAD_BYTES);
        let options = HttpOptions { max_queue_bytes: bytes, max_queue_frames: 3, ..<_>::default() };
        Outbox::new(&HttpOptions { max_frame_bytes: 1000, ..options })
    }

    fn take(outbox: &Outbox) -> Result<Vec<u64>, BreakReason> {
        let mut batch = Vec::new();
        outbox.take(&mut batch)?;
        Ok(batch.iter().map(|frame| frame.correlation).collect())
    }

    #[test]
    fn requests_are_numbered_in_order() {
        let outbox = outbox();
        assert_eq!((outbox.push(request(1)), outbox.push(request(1))), (Ok(1), Ok(2)));
        assert_eq!(take(&outbox), Ok(vec![1, 2]));
        assert_eq!(outbox.push(request(1)), Ok(3));
        assert_eq!(take(&outbox), Ok(vec![3]));
    }

    #[test]
    fn what_was_withdrawn_is_not_written() {
        let outbox = outbox();
        for _ in 0..3 {
            outbox.push(request(0)).expect("room");
        }
        assert!(outbox.withdraw(2));
        assert!(!outbox.withdraw(2), "twice");
        assert_eq!(take(&outbox), Ok(vec![1, 3]));
        assert!(!outbox.withdraw(3), "already taken");
        assert!(!outbox.withdraw(4), "never queued");
        assert_eq!(outbox.waiting_bytes(), 0);
    }

    #[test]
    fn the_queue_is_bounded_by_bytes_and_frames() {
        let outbox = outbox();
        assert_eq!(outbox.push(request(1001)), Err(NotSentReason::TooLarge));
        assert_eq!(outbox.push(request(1000)), Ok(1), "alone, any allowed frame fits");
        assert_eq!(outbox.push(request(0)), Err(NotSentReason::QueueFull));
        take(&outbox).expect("open");
        for number in 2..5 {
            assert_eq!(outbox.push(request(0)), Ok(number));
        }
        assert_eq!(outbox.push(request(0)), Err(NotSentReason::QueueFull));
        assert_eq!(outbox.push_answer(request(0)), Ok(5), "answers are bounded by their sender");
    }

    #[test]
    fn an_end_tells_what_was_taken_and_its_first_reason_holds() {
        let outbox = outbox();
        outbox.push(request(0)).expect("room");
        take(&outbox).expect("open");
        outbox.push(request(0)).expect("room");
        assert_eq!(outbox.end(BreakReason::Silent), (BreakReason::Silent, 1));
        assert_eq!(outbox.end(BreakReason::Closed), (BreakReason::Silent, 1));
        assert_eq!(outbox.push(request(0)), Err(NotSentReason::ConnectionEnded));
        assert_eq!(take(&outbox), Err(BreakReason::Silent));
    }
}
