//! Everything up: the local AWS, its stack, the deployables. And everything down, whatever happens.

use std::{collections::BTreeMap, future::pending, path::PathBuf};

use anyhow::anyhow;
use aws_config::SdkConfig;
use futures::future::{join_all, select_all, try_join_all};
use millrace_local::{Account, Logs, say};

use crate::{
    aws::Aws, calls, child::Child, cli::UpArgs, deployable::Deployable, interrupt::Interrupt,
    log_line::Addresses, stdout::print,
};

/// Millrace, up and running.
pub(crate) struct Millrace {
    pub(crate) command_service: Addresses,
    pub(crate) query_service: Addresses,
    pub(crate) projector: Addresses,
    /// What clients of its AWS are made from.
    pub(crate) config: SdkConfig,
    /// The environment of its deployables.
    pub(crate) env: BTreeMap<String, String>,
    /// Where the deployables' logs are.
    pub(crate) logs: PathBuf,
}

impl Millrace {
    /// Where everything is, a line each: a name and an address, then what else there is to know.
    pub(crate) fn places(&self) -> String {
        let deployables = [&self.command_service, &self.query_service, &self.projector];
        let mut places = String::new();
        for (deployable, Addresses { grpc, metrics }) in Deployable::ALL.into_iter().zip(deployables) {
            places += &format!("{:<15}  {grpc}  metrics http://{metrics}/metrics\n", deployable.name());
        }
        let aws = self.env.get("AWS_ENDPOINT_URL").map_or("", String::as_str);
        places + &format!("{:<15}  {aws}\n{:<15}  {}\n", "AWS", "logs", self.logs.display())
    }
}

/// `millrace`: everything up until it is told to end.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let stay = async |millrace: &Millrace| {
        print(&format!("{}\n{}", millrace.places(), calls::to_try(millrace)))?;
        say("ready; Ctrl-C ends it");
        pending().await
    };
    with(args, Account::of_env, stay).await.map(|_: Option<()>| ())
}

/// Brings everything up, does `work` with it, and brings everything down: also where the work or the start fails, a
/// deployable ends by itself, or we are told to end, in which case there is no result.
///
/// `account` names the account to use in the AWS of the caller, if there is one.
pub(crate) async fn with<T>(
    args: UpArgs,
    account: fn(&str) -> Account,
    work: impl AsyncFnOnce(&Millrace) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let mut interrupt = Interrupt::catch()?;
    let mut parts = Parts::default();
    let result = tokio::select! {
        result = parts.run(&args, account, work) => result.map(Some),
        () = interrupt.wait() => Ok(None),
    };
    say("ending …");
    let stopped = tokio::select! {
        stopped = parts.stop() => stopped,
        // Whatever still runs sees that we are gone.
        () = interrupt.wait() => Err(anyhow!("told to end for the second time: did not wait for the rest")),
    };
    // The first thing that went wrong is the reason for the others.
    let result = result?;
    stopped?;
    Ok(result)
}

/// What is up so far.
#[derive(Default)]
struct Parts {
    aws: Option<Aws>,
    children: Vec<Child>,
    logs: Option<Logs>,
}

impl Parts {
    async fn run<T>(
        &mut self,
        args: &UpArgs,
        account: fn(&str) -> Account,
        work: impl AsyncFnOnce(&Millrace) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let millrace = self.start(args, account).await?;
        tokio::select! {
            result = work(&millrace) => result,
            (reason, ..) = select_all(self.children.iter_mut().map(|child| Box::pin(child.died()))) => Err(reason),
        }
    }

    async fn start(&mut self, args: &UpArgs, account: fn(&str) -> Account) -> anyhow::Result<Millrace> {
        let aws = self.aws.insert(Aws::start(&args.aws, account).await?);
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
        Ok(Millrace { command_service, query_service, projector, config: aws.config.clone(), env, logs })
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
