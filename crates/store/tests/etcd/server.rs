//! An etcd of the test's own.

use etcd_client::Client;
use evenkeel_store::Etcd;
use evenkeel_store::etcd::Config;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a test waits for what is bound to come.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Ends etcd when its standard input ends, which is when the test ends, whatever the way.
const SUPERVISOR: &str = r#"
folder=$1; shift
setpriv --pdeathsig KILL etcd --data-dir "$folder/data" "$@" >>"$folder/log" 2>&1 &
read -r _
kill -9 $!
wait $! 2>/dev/null
[ -e "$folder/keep" ] || rm -rf "$folder"
"#;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
});

/// Runs a future where the store's tasks live, too.
pub fn run<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Lets a future run beside the test.
pub fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    RUNTIME.spawn(future)
}

/// One member on free ports of the loopback interface.
pub struct Server {
    folder: PathBuf,
    args: Vec<String>,
    config: Config,
    peers: String,
    supervisor: Option<Child>,
}

/// The one that the tests of a process share; none where etcd is not installed.
pub fn shared() -> Option<&'static Server> {
    static SHARED: LazyLock<Option<Server>> = LazyLock::new(|| Server::start(&[]));
    SHARED.as_ref()
}

impl Server {
    /// None where etcd is not installed.
    pub fn start(args: &[&str]) -> Option<Self> {
        let config = Config::new([format!("http://127.0.0.1:{}", free_port())]);
        Self::start_with(config, args)
    }

    /// The same where one gets to it by these settings.
    pub fn start_with(config: Config, args: &[&str]) -> Option<Self> {
        let mut server = Self::new(config, args)?;
        server.run();
        Some(server)
    }

    fn new(config: Config, args: &[&str]) -> Option<Self> {
        if !is_installed() {
            skipped();
            return None;
        }
        let folder = tempfile::Builder::new().prefix("etcd").tempdir().unwrap();
        Some(Self {
            folder: folder.keep(),
            args: args.iter().map(ToString::to_string).collect(),
            config,
            peers: format!("http://127.0.0.1:{}", free_port()),
            supervisor: None,
        })
    }

    /// Three members.
    pub fn cluster() -> Option<Vec<Self>> {
        Self::cluster_with([&[], &[], &[]])
    }

    /// The same with arguments for each.
    pub fn cluster_with(args: [&[&str]; 3]) -> Option<Vec<Self>> {
        let member = |args| {
            let config = Config::new([format!("http://127.0.0.1:{}", free_port())]);
            Self::new(config, args)
        };
        let members = args.into_iter().map(member);
        let mut members: Vec<_> = members.collect::<Option<_>>()?;
        let peers = members.iter().enumerate();
        let all: Vec<_> = peers.map(|(n, m)| format!("m{n}={}", m.peers)).collect();
        for (n, member) in members.iter_mut().enumerate() {
            member.args.extend(["--name".into(), format!("m{n}")]);
            member
                .args
                .extend(["--initial-cluster".into(), all.join(",")]);
            let peers = member.peers.clone();
            member
                .args
                .extend(["--initial-advertise-peer-urls".into(), peers]);
            member.spawn();
        }
        for member in &members {
            run(member.wait_until_it_answers());
        }
        Some(members)
    }

    /// Starts the program, on what is in the folder.
    pub fn run(&mut self) {
        self.spawn();
        run(self.wait_until_it_answers());
    }

    /// The same without waiting for it.
    pub fn spawn(&mut self) {
        std::fs::remove_file(self.folder.join("keep")).ok();
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR])
            .args(["sh".as_ref(), self.folder.as_os_str()])
            .args(["--listen-client-urls", self.url()])
            .args(["--advertise-client-urls", self.url()])
            .args(["--listen-peer-urls", &self.peers])
            .args(&self.args)
            .stdin(Stdio::piped())
            .spawn();
        self.supervisor = Some(supervisor.unwrap());
    }

    async fn wait_until_it_answers(&self) {
        let waited = tokio::time::timeout(DEADLINE, async {
            while Etcd::open(&self.config).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(waited.await.is_ok(), "etcd does not start: {}", log());
    }

    /// Ends it with SIGKILL, and keeps what it has on disk.
    pub fn kill(&mut self) {
        std::fs::write(self.folder.join("keep"), "").unwrap();
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            drop(supervisor.stdin.take());
            supervisor.wait().unwrap();
        }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.config.endpoints[0]
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Settings with a prefix that nobody else has.
    pub fn fresh(&self) -> Config {
        static USED: AtomicU64 = AtomicU64::new(0);
        let mut config = self.config.clone();
        config.prefix = format!("/test/{}", USED.fetch_add(1, Ordering::Relaxed));
        config
    }

    /// A client beside the store.
    pub async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn is_installed() -> bool {
    let version = Command::new("etcd").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

#[allow(
    clippy::print_stderr,
    clippy::disallowed_macros,
    reason = "a test that does not run says so"
)]
fn skipped() {
    assert!(
        std::env::var_os("CI").is_none(),
        "etcd is not installed: scripts/install-deps.sh test"
    );
    eprintln!("SKIPPED: needs etcd (Debian: etcd-server)");
}
