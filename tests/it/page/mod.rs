/// What a click or a form does.
mod acts;
/// That an action is done once.
mod clicks;
/// The panel of jobs.
#[cfg(feature = "jobs")]
mod jobs;
/// The log of a task.
mod log;
/// The modules apart from the elements.
mod logic;
/// How it looks: what is drawn, to whom, and how much of it anew.
mod looks;
/// Types of one's own, each with its form.
mod own;
mod scene;
/// Several tabs at once.
mod tabs;
/// What it shows is so: late answers, other sessions, a server that has gone.
mod truth;
/// What has an address.
mod views;
