//! Every login shell, and every shell that is called `sh`, delivers and starts a worker unchanged.

mod place;

use std::ffi::OsString;

use farcall_bootstrap::launch::Delivery;
use farcall_bootstrap::target::{Cache, LaunchOptions};
use place::{Place, options, program};

/// Characters that one shell or another would change.
const ODD: &str = "it's \"a\" \\b\\\\c !x !! $HOME `id` $(id) * ? [a-z] {a,b} ~ # & | ; <x> ^y %z =w @v _u _101 é\t\n\nend\n";

fn odd_options(place: &Place) -> LaunchOptions {
    LaunchOptions {
        arguments: vec!["label".into(), ODD.into(), "".into(), "-n".into(), "last".into()],
        env: [("ODD", ODD), ("EMPTY", ""), ("PLAIN", "x=1"), ("IFS", ":"), ("PATH", "/elsewhere")]
            .into_iter()
            .chain(["A", "d", "f", "K", "l", "n", "p", "q", "v", "x"].map(|name| (name, "asked for")))
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        chdir: Some(place.home().join(ODD).join("below")),
        nice: Some(3),
        memory: Some(512 << 20),
        ..options()
    }
}

/// Cold, warm with every setting and odd values, and without leaving anything.
async fn all_ways(place: Place) {
    let place = place.variable("h=was there").variable("s=was there");
    let program = program();
    let cold = place.start(&program, &options()).await.expect("delivered");
    assert!(matches!(cold.delivery(), Delivery::Sent { kept: true, .. }), "{:?}", cold.delivery());
    assert_eq!(cold.launched.platform, Some(farcall_bootstrap::platform::Platform::current()));
    let environ = cold.proc("environ");
    for variable in ["h=was there", "s=was there"] {
        assert!(environ.split('\0').any(|other| other == variable), "{environ:?}");
    }
    let named = place.cached_worker();
    assert_eq!(cold.link("exe"), named);
    cold.echo_and_end().await;

    let warm = place.start(&program, &odd_options(&place)).await.expect("started");
    assert_eq!(warm.delivery(), Delivery::Cached);
    let file = named.display().to_string();
    assert_eq!(
        warm.proc("cmdline").split('\0').collect::<Vec<_>>(),
        [&file, "label", ODD, "", "-n", "last", ""]
    );
    assert_eq!(warm.link("cwd"), place.home().join(ODD).join("below"));
    let environ = warm.proc("environ");
    let variables: Vec<&str> = environ.split('\0').collect();
    let odd = format!("ODD={ODD}");
    for variable in
        [&odd, "EMPTY=", "PLAIN=x=1", "IFS=:", "A=asked for", "f=asked for", "q=asked for", "x=asked for"]
    {
        assert!(variables.contains(&variable), "{variable:?} in {variables:?}");
    }
    let stat = warm.proc("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    assert_eq!(fields.split(' ').nth(17), Some("3"), "niceness, field 19 of {stat}");
    let limits = warm.proc("limits");
    let data = limits.lines().find(|line| line.starts_with("Max data size")).expect("a limit");
    assert_eq!(data.split_whitespace().nth(3), Some("536870912"), "{data}");
    warm.echo_and_end().await;

    std::fs::remove_dir_all(place.cache()).expect("removed");
    let settings = LaunchOptions { cache: Cache::LeaveNothing, nice: Some(1), ..options() };
    let trackless = place.start(&program, &settings).await.expect("delivered");
    assert!(matches!(trackless.delivery(), Delivery::Sent { kept: false, .. }));
    assert!(!place.cache().exists(), "{:?}", place.cached());
    trackless.echo_and_end().await;
}

macro_rules! login_shells {
    ($($name:ident: $words:expr;)*) => {
        mod login_shell {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                all_ways(Place::new().login(&$words)).await;
            })*
        }
    };
}

login_shells! {
    bash: ["bash", "-c"];
    bash_as_login: ["bash", "-l", "-c"];
    dash: ["dash", "-c"];
    zsh: ["zsh", "-c"];
    fish: ["fish", "-c"];
    tcsh: ["tcsh", "-c"];
    ksh: ["ksh93", "-c"];
    mksh: ["mksh", "-c"];
    busybox: ["busybox", "sh", "-c"];
    yash: ["yash", "-c"];
}

macro_rules! posix_shells {
    ($($name:ident: $shell:expr;)*) => {
        mod posix_shell {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                // One of them reads its text by the locale's rules, and drops what they do not allow.
                all_ways(Place::new().shell($shell).variable("LC_ALL=C.UTF-8")).await;
            })*
        }
    };
}

posix_shells! {
    bash: "bash";
    dash: "dash";
    zsh: "zsh";
    ksh: "ksh93";
    mksh: "mksh";
    busybox: "busybox";
    yash: "yash";
}

/// Everybody can read the arguments of a program, and not every shell can do all by itself.
#[tokio::test]
async fn values_of_variables_are_no_arguments_of_any_program() {
    for shell in ["bash", "dash", "zsh", "ksh93", "mksh", "busybox", "yash"] {
        let place = Place::new().shell(shell);
        let shown = place.home().join("shown");
        let script = format!("echo \"$*\" >>{}\nexec /usr/bin/printf \"$@\"", shown.display());
        let place = place.tool("printf", &script);
        let settings = LaunchOptions { env: vec![("SECRET".into(), "hunter2 * x_y".into())], ..options() };
        let worker = place.start(&program(), &settings).await.expect("started");
        assert!(worker.proc("environ").split('\0').any(|other| other == "SECRET=hunter2 * x_y"), "{shell}");
        worker.echo_and_end().await;
        let shown = std::fs::read_to_string(shown).unwrap_or_default();
        assert!(!shown.contains("hunter2"), "{shell}: {shown}");
    }
}

#[tokio::test]
async fn a_variable_that_a_shell_has_for_itself_is_named() {
    let place = Place::new().shell("bash");
    let settings = LaunchOptions { env: vec![("UID".into(), "1000".into())], ..options() };
    let error = place.start(&program(), &settings).await.err().expect("refused").to_string();
    assert!(error.contains("the shell there does not let the variable \"UID\" be set"), "{error}");
}

#[tokio::test]
async fn busybox_alone_is_enough() {
    all_ways(Place::new().only_busybox().login(&["busybox", "sh", "-c"])).await;
}

#[tokio::test]
async fn any_account_is_served() {
    let place =
        Place::new().login(&["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "dash", "-c"]);
    std::os::unix::fs::chown(place.home(), Some(1234), Some(1234)).expect("given");
    all_ways(place).await;
}

#[tokio::test]
async fn arguments_that_are_not_text_arrive_as_they_are() {
    use std::os::unix::ffi::OsStringExt;
    let place = Place::new();
    let odd = OsString::from_vec((1..=255).collect());
    let settings = LaunchOptions { arguments: vec![odd.clone()], ..options() };
    let worker = place.start(&program(), &settings).await.expect("started");
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", worker.pid)).expect("it lives");
    let argument = cmdline.split(|&b| b == 0).nth(1).expect("an argument");
    assert_eq!(argument, odd.into_vec());
    worker.echo_and_end().await;
}
