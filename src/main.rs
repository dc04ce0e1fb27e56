//! The command line program.

fn main() -> std::process::ExitCode {
    distributary::cli::main()
}
