fn main() -> std::process::ExitCode {
    sqlitereplicate::cli::main(std::env::args_os().skip(1)).into()
}
