//! What each shell reads once: on Tab, ask the binary.

/// For `source <(tidegate completion bash)` or a file in `/etc/bash_completion.d`.
pub(super) const BASH: &str = r#"# Completion of tidegate for bash: source <(tidegate completion bash)
_tidegate() {
    local line word files=
    local cur="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while IFS= read -r line; do
        if [ "$line" = ":files" ]; then files=1; continue; fi
        word="${line%%$'\t'*}"
        # bash completes what follows the sign of `--output=json`, not the whole.
        case "$word" in "$cur"*) ;; *=*) word="${word#*=}" ;; esac
        COMPREPLY+=("$word")
    done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [ -n "$files" ]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$cur")
    fi
}
complete -F _tidegate tidegate
"#;

/// For `source <(tidegate completion zsh)` or a file `_tidegate` on the `fpath`.
pub(super) const ZSH: &str = r#"#compdef tidegate
# Completion of tidegate for zsh: source <(tidegate completion zsh)
_tidegate() {
    local line files=
    local -a words_of said
    while IFS= read -r line; do
        if [[ "$line" == ":files" ]]; then files=1; continue; fi
        words_of+=("${line%%$'\t'*}")
        if [[ "$line" == *$'\t'* ]]; then said+=("${line%%$'\t'*}  -- ${line#*$'\t'}"); else said+=("$line"); fi
    done < <("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#words_of} )); then compadd -l -d said -- "${(@)words_of}"; fi
    if [[ -n "$files" ]]; then _files; fi
}
if [[ "${funcstack[1]}" == "_tidegate" ]]; then
    _tidegate "$@"
elif (( ${+functions[compdef]} )); then
    compdef _tidegate tidegate
fi
"#;

/// For `tidegate completion fish | source` or a file in `~/.config/fish/completions`.
pub(super) const FISH: &str = r#"# Completion of tidegate for fish: tidegate completion fish | source
function __tidegate_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] __complete -- $words[2..-1] 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            printf '%s\n' $line
        end
    end
end
complete -c tidegate -f -a '(__tidegate_complete)'
"#;
