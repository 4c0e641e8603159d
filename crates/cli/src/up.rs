//! Everything up: the local AWS, its stack, the deployables. And everything down, whatever happens.

use std::future::pending;

use anyhow::anyhow;
use futures::future::{join_all, select_all, try_join_all};
use millrace_core::Application;
use millrace_local::{Account, Logs, say};

use crate::{
    Call, Running, aws::Aws, child::Child, cli::UpArgs, deployable::Deployable, interrupt::Interrupt,
    stdout::print,
};

/// Runs everything until an interrupt.
pub(crate) async fn run(application: &Application, args: UpArgs, calls: Vec<Call>) -> anyhow::Result<()> {
    let stay = async |running: &Running| {
        print(&format!("{}\n{}", running.places(), running.to_try(&calls)))?;
        say("ready; Ctrl-C ends it");
        pending().await
    };
    with(application, args, Account::of_env, stay).await.map(|_: Option<()>| ())
}

/// Brings everything up, does `work` with it, and brings everything down: also where the work or the start fails, a
/// deployable ends by itself, or an interrupt comes, in which case there is no result.
///
/// `account` names the account to use in the AWS of the caller, if there is one.
pub(crate) async fn with<T>(
    application: &Application,
    args: UpArgs,
    account: fn(&str) -> Account,
    work: impl AsyncFnOnce(&Running) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let mut interrupt = Interrupt::catch()?;
    let mut parts = Parts::default();
    let result = tokio::select! {
        result = parts.run(application, &args, account, work) => result.map(Some),
        () = interrupt.wait() => Ok(None),
    };
    say("ending …");
    let stopped = tokio::select! {
        stopped = parts.stop() => stopped,
        // Deployables that still run see the end of their standard input.
        () = interrupt.wait() => Err(anyhow!("told to end for the second time: did not wait for the rest")),
    };
    // The first thing that went wrong is the reason for the others.
    let result = result?;
    stopped?;
    Ok(result)
}

/// The processes that are up so far.
#[derive(Default)]
struct Parts {
    aws: Option<Aws>,
    children: Vec<Child>,
    logs: Option<Logs>,
}

impl Parts {
    async fn run<T>(
        &mut self,
        application: &Application,
        args: &UpArgs,
        account: fn(&str) -> Account,
        work: impl AsyncFnOnce(&Running) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let running = self.start(application, args, account).await?;
        tokio::select! {
            result = work(&running) => result,
            (reason, ..) = select_all(self.children.iter_mut().map(|child| Box::pin(child.died()))) => Err(reason),
        }
    }

    async fn start(
        &mut self,
        application: &Application,
        args: &UpArgs,
        account: fn(&str) -> Account,
    ) -> anyhow::Result<Running> {
        let aws = self.aws.insert(Aws::start(application, &args.aws, account).await?);
        say("starting the deployables …");
        let env = aws.env.clone();
        let logs = self.logs.insert(Logs::claim()?);
        for deployable in Deployable::ALL {
            let port = match deployable {
                Deployable::CommandService => args.command_port,
                Deployable::QueryService => args.query_port,
                Deployable::Projector => args.projector_port,
            };
            self.children.push(Child::start(deployable, port.unwrap_or(0), &env, logs)?);
        }
        let [command_service, query_service, projector] =
            try_join_all(self.children.iter_mut().map(Child::ready))
                .await?
                .try_into()
                .map_err(|_| anyhow!("not every deployable told its addresses"))?;
        let logs = logs.directory().to_owned();
        let (account, prefix) = (aws.account.clone(), aws.prefix.clone());
        Ok(Running { command_service, query_service, projector, account, prefix, env, logs })
    }

    /// Ends the deployables, then their AWS.
    async fn stop(self) -> anyhow::Result<()> {
        let ended = join_all(self.children.into_iter().map(Child::stop)).await;
        let aws = match self.aws {
            Some(aws) => aws.stop().await,
            None => Ok(()),
        };
        ended.into_iter().chain([aws]).collect()
    }
}
