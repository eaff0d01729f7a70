//! Waits for tasks to end: the event stream says when to look, a slow poll is the safety net, bars show progress.
//!
//! A coordinator that goes away in between is waited for, within a bound.

mod stall;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use orca_proto::client::{Client, ClientError, EventStream};
use orca_proto::event::{Event, EventQuery};
use orca_proto::ids::TaskId;
use orca_proto::task::{Task, TaskFilter, TaskSummary};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::error::{Exit, Failure};
use crate::output::{Output, escape, task as task_text};

pub(crate) use self::stall::Stall;

/// How often bars are drawn anew while something happens.
const REDRAW: Duration = Duration::from_millis(300);
/// How often everything is asked again, whatever the events said.
const SAFETY_NET: Duration = Duration::from_secs(5);
/// The same, where there is no event stream.
const POLL: Duration = Duration::from_millis(500);
/// Tries of one call while the coordinator is away: a bit over a minute.
const TRIES: u32 = 20;
/// Bars shown at once.
const BARS: usize = 8;
/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Waits until every task in `ids` has ended, for at most `limit`; the tasks come in the order asked.
///
/// # Errors
/// A [`Failure`] if one is unknown, the coordinator stays away, or time is up.
pub(crate) async fn until_ended(
    client: &Client,
    ids: &[TaskId],
    limit: Option<Duration>,
    output: Output,
) -> Result<Vec<Task>, Failure> {
    let mut watch = Watch {
        client,
        open: ids.iter().map(|id| (*id, None)).collect(),
        ended: BTreeMap::new(),
        output,
        away: AtomicBool::new(false),
    };
    let bars = output.shows_progress().then(Bars::default);
    let waited = match limit.and_then(|limit| Instant::now().checked_add(limit)) {
        None => watch.run(ids, bars).await,
        Some(deadline) => {
            let waited = timeout_at(deadline, watch.run(ids, bars)).await;
            waited.unwrap_or_else(|_| Err(time_is_up(watch.away.load(Ordering::Relaxed))))
        }
    };
    waited?;
    Ok(ids.iter().filter_map(|id| watch.ended.get(id).cloned()).collect())
}

fn time_is_up(away: bool) -> Failure {
    if away {
        return Failure::new(Exit::Unreachable, "time is up, and the coordinator does not answer")
            .because("how the tasks are cannot be told")
            .hint("is it running? `orca wait` asks again");
    }
    Failure::new(Exit::Other, "time is up")
        .because("the wait's own limit was reached; the tasks go on")
        .hint("`orca wait` goes on waiting, `orca cancel` ends them")
}

struct Watch<'a> {
    client: &'a Client,
    /// Those that have not ended, as last seen.
    open: BTreeMap<TaskId, Option<TaskSummary>>,
    ended: BTreeMap<TaskId, Task>,
    output: Output,
    /// The coordinator was found away, and that was said.
    away: AtomicBool,
}

impl Watch<'_> {
    async fn run(&mut self, ids: &[TaskId], mut bars: Option<Bars>) -> Result<(), Failure> {
        // The stream is open before the first look, so no end falls between the two.
        let task = match ids {
            [only] => Some(*only),
            _ => None,
        };
        let mut events = self.client.events(&EventQuery { task, replay: None }).await.ok();
        let all: Vec<TaskId> = self.open.keys().copied().collect();
        self.look(&all).await?;
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_full_look = Instant::now();
        let mut stale = true;
        let mut stall = Stall::new(self.client, ids);
        while !self.open.is_empty() {
            tokio::select! {
                event = next(&mut events) => match event {
                    Some(event) => stale |= self.on_event(&event).await?,
                    None => events = None,
                },
                sentence = stall.sentence() => match &bars {
                    Some(bars) => {
                        let _ = bars.all.println(sentence);
                    }
                    None => self.output.remark(&sentence),
                },
                _ = redraw.tick() => {
                    let net = if events.is_some() { SAFETY_NET } else { POLL };
                    if last_full_look.elapsed() >= net {
                        let all: Vec<TaskId> = self.open.keys().copied().collect();
                        self.look(&all).await?;
                        last_full_look = Instant::now();
                        stale = true;
                    } else if stale && bars.is_some() {
                        let shown: Vec<TaskId> = self.open.keys().copied().take(BARS).collect();
                        self.look(&shown).await?;
                    }
                    if let Some(bars) = &mut bars && stale {
                        bars.draw(self.client, &self.open).await;
                        stale = false;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes note of an event; says whether it was about one of the tasks or something under one.
    async fn on_event(&mut self, event: &Event) -> Result<bool, Failure> {
        if self.open.contains_key(&event.subject) {
            if event.data.state.is_some_and(|state| state.is_terminal()) {
                self.look(&[event.subject]).await?;
            }
            return Ok(true);
        }
        Ok(event.data.parent.is_some_and(|parent| self.open.contains_key(&parent)))
    }

    async fn look(&mut self, ids: &[TaskId]) -> Result<(), Failure> {
        let (client, output, away) = (self.client, self.output, &self.away);
        let ask = async |id| {
            let task = client.task(id).await;
            if task.as_ref().is_err_and(ClientError::is_transient) && !away.swap(true, Ordering::Relaxed) {
                output.remark("the coordinator does not answer; trying again for a minute or so");
            }
            task
        };
        let ask = &ask;
        let mut tasks = stream::iter(ids.to_vec())
            .map(|id| async move {
                let task = Client::with_retries(TRIES, async || ask(id).await).await;
                task.map_err(|error| Failure::about(error, "task", id))
            })
            .buffer_unordered(AT_ONCE);
        while let Some(task) = tasks.next().await {
            let task: Task = task?;
            away.store(false, Ordering::Relaxed);
            let id = task.summary.id;
            if task.summary.state.is_terminal() {
                self.open.remove(&id);
                self.ended.insert(id, task);
            } else {
                self.open.insert(id, Some(task.summary));
            }
        }
        Ok(())
    }
}

/// The next event; never resolves where there is no stream, and `None` once it has broken for good.
async fn next(events: &mut Option<EventStream>) -> Option<Event> {
    match events {
        None => std::future::pending().await,
        Some(stream) => loop {
            match stream.next().await {
                Some(Ok(event)) => return Some(event),
                // An event of a kind from a later version is no reason to stop.
                Some(Err(ClientError::Decode { .. })) => {}
                Some(Err(_)) | None => return None,
            }
        },
    }
}

/// One bar per task that is waited for, on standard error.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    shown: BTreeMap<TaskId, ProgressBar>,
}

impl Bars {
    async fn draw(&mut self, client: &Client, open: &BTreeMap<TaskId, Option<TaskSummary>>) {
        self.shown.retain(|id, bar| {
            let keep = open.contains_key(id);
            if !keep {
                bar.finish_and_clear();
            }
            keep
        });
        for (id, summary) in open.iter().take(BARS) {
            let Some(summary) = summary else { continue };
            let bar = self.shown.entry(*id).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new_spinner());
                // A long task says nothing for hours; its clock goes on all the same.
                bar.enable_steady_tick(REDRAW);
                bar
            });
            draw_one(client, bar, summary).await;
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.shown.values() {
            bar.finish_and_clear();
        }
    }
}

async fn draw_one(client: &Client, bar: &ProgressBar, summary: &TaskSummary) {
    let (ended, all) = task_text::children_counts(summary);
    bar.set_prefix(escape::line(&summary.name).into_owned());
    if all == 0 {
        style(bar, "{spinner} {prefix} {elapsed} {wide_msg}");
        let note = task_text::note(summary, Timestamp::now());
        bar.set_message(format!("{} {}", summary.state, escape::line(&note)));
    } else {
        style(bar, "{spinner} {prefix} [{bar:24}] {pos} of {len} tasks {elapsed} {wide_msg}");
        bar.set_length(all);
        bar.set_position(ended);
        bar.set_message(running_names(client, summary.id).await);
    }
    bar.tick();
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

/// What runs under a goal, for its bar. A bar without names is no failure.
async fn running_names(client: &Client, parent: TaskId) -> String {
    let filter = TaskFilter {
        parent: Some(parent),
        state: Some("running".to_owned()),
        limit: Some(3),
        ..TaskFilter::default()
    };
    let page = client.tasks(&filter).await.map(|page| page.items).unwrap_or_default();
    let names: Vec<String> = page.iter().map(|task| escape::line(&task.name).into_owned()).collect();
    names.join(", ")
}
