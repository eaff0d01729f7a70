//! The GPUs that a node offers: each belongs to one attempt at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All that a node offers.
#[derive(Debug)]
pub(crate) struct GpuPool {
    count: u32,
    free: Mutex<BTreeSet<u32>>,
    turns: Arc<Semaphore>,
}

/// Some that belong to one attempt; they are free again once the last copy is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gpus(Option<Arc<Taken>>);

#[derive(Debug)]
struct Taken {
    numbers: Vec<u32>,
    pool: Arc<GpuPool>,
    _turns: OwnedSemaphorePermit,
}

impl GpuPool {
    /// The machine's first `count`.
    pub(crate) fn new(count: u32) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(count as usize));
        Arc::new(Self { count, free: Mutex::new((0..count).collect()), turns })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `count`; waits until so many are free, behind those who waited before.
    ///
    /// # Errors
    /// Why there will never be so many.
    pub(crate) async fn take(self: &Arc<Self>, count: u32) -> Result<Gpus, String> {
        if count == 0 {
            return Ok(Gpus::default());
        }
        if count > self.count {
            return Err(format!("it asks for {count} GPUs, and this node offers {} (--gpus)", self.count));
        }
        let turns = Arc::clone(&self.turns).acquire_many_owned(count).await;
        let turns = turns.map_err(|closed| closed.to_string())?;
        let mut free = self.lock();
        let numbers: Vec<u32> = free.iter().take(count as usize).copied().collect();
        free.retain(|number| !numbers.contains(number));
        Ok(Gpus(Some(Arc::new(Taken { numbers, pool: Arc::clone(self), _turns: turns }))))
    }

    /// Takes those of `numbers` that are free and that this node still offers, for an attempt that has them already.
    pub(crate) fn take_again(self: &Arc<Self>, numbers: &[u32]) -> Gpus {
        let mut free = self.lock();
        let numbers: Vec<u32> = numbers.iter().filter(|number| free.contains(number)).copied().collect();
        let count = u32::try_from(numbers.len()).unwrap_or_default();
        let Some(turns) = Arc::clone(&self.turns).try_acquire_many_owned(count).ok().filter(|_| count > 0)
        else {
            return Gpus::default();
        };
        free.retain(|number| !numbers.contains(number));
        Gpus(Some(Arc::new(Taken { numbers, pool: Arc::clone(self), _turns: turns })))
    }
}

impl Gpus {
    /// Their numbers, as the driver counts them.
    pub(crate) fn numbers(&self) -> &[u32] {
        self.0.as_ref().map_or(&[], |taken| &taken.numbers)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // The permits come back after this.
        self.pool.lock().extend(&self.numbers);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn no_gpu_belongs_to_two_attempts_and_one_that_is_given_back_is_taken_again() {
        let pool = GpuPool::new(3);
        let (one, two) = (pool.take(1).await.unwrap(), pool.take(2).await.unwrap());
        assert_eq!((one.numbers(), two.numbers()), (&[0][..], &[1, 2][..]));
        let waits = pool.take(2);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waits).await.is_err());
        drop(one);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waits).await.is_err());
        drop(two);
        assert_eq!(waits.await.unwrap().numbers(), [0, 1]);
    }

    #[tokio::test]
    async fn what_an_attempt_has_already_is_taken_by_its_numbers() {
        let pool = GpuPool::new(3);
        let again = pool.take_again(&[1, 7]);
        assert_eq!(again.numbers(), [1]);
        assert_eq!(pool.take(2).await.unwrap().numbers(), [0, 2]);
        assert!(pool.take_again(&[1]).numbers().is_empty());
    }

    #[tokio::test]
    async fn what_a_node_never_has_is_refused_and_nothing_is_had_at_once() {
        let pool = GpuPool::new(1);
        assert!(pool.take(2).await.unwrap_err().contains("--gpus"));
        let _all = pool.take(1).await.unwrap();
        assert!(pool.take(0).await.unwrap().numbers().is_empty());
    }
}
