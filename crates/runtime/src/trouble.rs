//! Trouble that lasts.

use std::time::Duration;

use tokio::time::Instant;

/// How long a trouble lasts before it is worth a word. What passes sooner is healed by retries, and shows in metrics.
const WORTH_A_WORD: Duration = Duration::from_secs(60);

/// After how long it is told again.
const REMINDER: Duration = Duration::from_secs(10 * 60);

/// Something that is tried again and again at one place, and whether it keeps failing there.
///
/// A line in the log is for a person who must act. A failure by itself is none: it is counted, and the next attempt may
/// succeed. One that does not end is told after a minute, and every ten minutes from then on.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    began: Option<Instant>,
    told: Option<Instant>,
}

impl Trouble {
    /// Notes a failure. Where it is time to tell of the trouble, says for how long it has lasted.
    pub fn met(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let lasted = now - *self.began.get_or_insert(now);
        let due = self.told.map_or(lasted >= WORTH_A_WORD, |told| now - told >= REMINDER);
        due.then(|| {
            self.told = Some(now);
            lasted
        })
    }

    /// Notes a success.
    pub fn over(&mut self) {
        *self = Self::default();
    }

    /// For how long it has lasted; zero where there is none.
    pub fn lasted(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trouble_is_told_once_it_has_lasted_and_then_from_time_to_time() {
        let mut trouble = Trouble::default();
        let mut told = Vec::new();
        for second in 0..=1_300_u64 {
            if let Some(lasted) = trouble.met() {
                assert_eq!(lasted.as_secs(), second);
                told.push(second);
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(told, [60, 660, 1_260]);
        assert_eq!(trouble.lasted().as_secs(), 1_301);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_ends_it() {
        let mut trouble = Trouble::default();
        for _ in 0..100 {
            for _ in 0..59 {
                assert_eq!(trouble.met(), None);
                sleep(Duration::from_secs(1)).await;
            }
            trouble.over();
            assert_eq!(trouble.lasted(), Duration::ZERO);
        }
    }
}
