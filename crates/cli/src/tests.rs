use super::*;
use clap::Parser;

/// The program as the binary wires it.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", infer_subcommands = true)]
struct Program {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Result<Program, clap::Error> {
    Program::try_parse_from(line.split_whitespace())
}

#[test]
fn command_line_is_consistent() {
    use clap::CommandFactory;
    Program::command().debug_assert();
}

#[test]
fn abbreviations_and_short_names_are_understood() {
    let lines = [
        "evenkeel show vs",
        "evenkeel sh virt vs-1",
        "evenkeel show se",
        "evenkeel show bgp se-1",
        "evenkeel show bgp routes se-1",
        "evenkeel show bgp neighbor 10.0.0.1 se-1",
        "evenkeel show bfd",
        "evenkeel explain vip 192.0.2.1 --se se-1",
        "evenkeel scaleout vs vs-1 --to-se se-2 --wait",
        "evenkeel scalein virtual vs-1",
        "evenkeel migrate vs vs-1 --from-se se-1 --to-se se-2 --wait",
        "evenkeel migrate virtualservice vs-1 --dry-run",
        "evenkeel switchover vs vs-1 --to-se se-2",
        "evenkeel switchover vs vs-1 --dry-run",
        "evenkeel switchover se se-1",
        "evenkeel switchover serviceengine se-1 --dry-run",
        "evenkeel redistribute serviceenginegroup g",
        "evenkeel retryplacement vs vs-1 --vip-id 1",
        "evenkeel resync virtualservice vs-1 --se se-1 --se se-2",
        "evenkeel rotatekeys vs vs-1",
        "evenkeel reboot se se-1",
        "evenkeel clear bgp 10.0.0.1 --se se-1",
        "evenkeel clear vs",
        "evenkeel clear virtualservice vs-1 vs-2",
        "evenkeel clear se se-1",
        "evenkeel delete vs vs-1",
        "evenkeel delete se se-1 --force --dry-run",
        "evenkeel jointoken create --name se-1 --ttl 15m",
        "evenkeel apply -f -",
        "evenkeel apply -f - --confirm-within 60s --message why",
        "evenkeel show audit pool web --who admin --limit 5",
        "evenkeel show pending",
        "evenkeel revert 7",
        "evenkeel revert 7 pool web",
        "evenkeel confirm 7",
        "evenkeel backup b",
        "evenkeel token create --name ci --ttl 7d",
        "evenkeel token list --token-file t",
        "evenkeel token revoke u",
        "evenkeel sealkey rotate",
        "evenkeel export",
        "evenkeel import -",
        "evenkeel support bundle",
        "evenkeel support bundle b.tar.gz --force -o json",
        "evenkeel support bundle --host --bpf-dir /run/other",
    ];
    for line in lines {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in [
        "evenkeel -o json show vs",
        "evenkeel show vs -o json --controller https://c",
    ] {
        assert_eq!(
            parse(line).unwrap().global.output,
            output::Format::Json,
            "{line}"
        );
    }
}

#[test]
fn wrong_command_line_is_a_usage_error() {
    assert_eq!(
        parse("evenkeel scaleout virtualservice")
            .unwrap_err()
            .exit_code(),
        2
    );
    assert_eq!(
        parse("evenkeel show vs --insecure --ca-file x")
            .unwrap_err()
            .exit_code(),
        2
    );
}
