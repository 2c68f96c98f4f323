//! Tasks that serve one request each, in memory that earlier ones have left.
//!
//! What serves a request is a future of about 2 KiB: made anew, it was moved three times on its way into its task, and its memory
//! came from where the allocator keeps large blocks, which it does not find at once. Invariant: a thread keeps at most [`KEPT`] of
//! them, and those are done: they hold nothing of the requests that they have served.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::sync::ReusableBoxFuture;

/// As many as end and begin within one turn of a busy connection.
const KEPT: usize = 32;

type Serving = ReusableBoxFuture<'static, ()>;

thread_local! {
    /// With their sizes: there is one for each kind of connection.
    static DONE: RefCell<Vec<(usize, Serving)>> = const { RefCell::new(Vec::new()) };
}

/// Starts a task that does what `serve` says.
pub(super) fn spawn(serve: impl Future<Output = ()> + Send + 'static) {
    let size = size_of_val(&serve);
    let done = DONE.with_borrow_mut(|all| {
        let fits = all.iter().rposition(|(done, _)| *done == size)?;
        Some(all.swap_remove(fits).1)
    });
    let serving = match done {
        Some(mut done) => {
            done.set(serve);
            done
        }
        None => Serving::new(serve),
    };
    tokio::spawn(Task(Some((size, serving))));
}

/// `None` once it is done.
struct Task(Option<(usize, Serving)>);

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((_, serving)) = &mut self.0 {
            ready!(serving.poll(cx));
        }
        if let Some(done) = self.0.take() {
            keep(done);
        }
        Poll::Ready(())
    }
}

fn keep(done: (usize, Serving)) {
    DONE.with_borrow_mut(|all| {
        if all.len() < KEPT {
            all.push(done);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn kept() -> usize {
        DONE.with_borrow(Vec::len)
    }

    async fn serve<const ROOM: usize>(held: Arc<()>) {
        let room = [1_u8; ROOM];
        tokio::task::yield_now().await;
        assert_eq!(room.iter().map(|byte| usize::from(*byte)).sum::<usize>(), ROOM);
        drop(held);
    }

    #[tokio::test]
    async fn few_are_kept_and_nothing_of_their_requests() {
        let held = Arc::new(());
        for burst in [1, 2 * KEPT, 3] {
            for _ in 0..burst {
                spawn(serve::<2000>(Arc::clone(&held)));
                spawn(serve::<3000>(Arc::clone(&held)));
            }
            while Arc::strong_count(&held) > 1 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(kept(), KEPT);
        spawn(serve::<2000>(Arc::clone(&held)));
        assert_eq!((kept(), Arc::strong_count(&held)), (KEPT - 1, 2));
        spawn(serve::<4000>(Arc::clone(&held)));
        assert_eq!((kept(), Arc::strong_count(&held)), (KEPT - 1, 3), "of this size there is none");
    }

    #[tokio::test]
    async fn what_is_given_up_is_dropped() {
        let (held, before) = (Arc::new(()), kept());
        let task = tokio::spawn(Task(Some((0, Serving::new(serve::<2000>(Arc::clone(&held)))))));
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!((kept(), Arc::strong_count(&held)), (before, 1));
    }
}
