# Prints names for the word at the cursor, one a line: of runs or of cluster configs, as NAMES says.
# TYPED has the words of the command line, one a line; the arguments are the directories of cluster
# configs. A run may be named by anybody, so only names without a meaning in a shell are printed.
LC_ALL=C
cluster=$GETIACTION_LAUNCH_CLUSTER root= previous=
while IFS= read -r word; do
  [ "$word" != "=" ] || continue # bash has --root=DIR as three words
  case $word in
    --cluster=*) cluster=${word#*=} ;;
    --root=*) root=${word#*=} ;;
  esac
  case $previous in
    --cluster) cluster=$word ;;
    --root) root=$word ;;
  esac
  previous=$word
done <<END
$TYPED
END

if [ "$NAMES" = clusters ]; then
  for directory in "$@"; do
    for config in "$directory"/*.yaml; do
      name=${config##*/}
      case $name in
        [.-]* | *[!A-Za-z0-9._+-]*) ;;
        *) printf "%s\n" "${name%.yaml}" ;;
      esac
    done
  done
  exit
fi

if [ -z "$root" ]; then
  root=$GETIACTION_LAUNCH_STORAGE_ROOT config=
  case $cluster in
    */* | *.yaml | *.yml) config=$cluster ;;
    ?*)
      for directory in "$@"; do
        [ -n "$config" ] || [ ! -f "$directory/$cluster.yaml" ] || config=$directory/$cluster.yaml
      done
      ;;
  esac
  if [ -f "$config" ]; then
    case $(sed -n "s/^ssh:[[:space:]]*//p" "$config") in
      "" | null* | "~"* | "#"*) ;;
      *)
        echo @last # the other side would have to be asked for more
        exit
        ;;
    esac
  fi
  if [ -z "$root" ] && [ -f "$config" ]; then
    root=$(sed -n "s/^storage_root:[[:space:]]*//p" "$config")
    root=${root%%[[:space:]]#*}
    case $root in
      \"*) root=${root#\"} root=${root%%\"*} ;;
      "'"*) root=${root#"'"} root=${root%%"'"*} ;;
      null | "#"*) root= ;;
    esac
  fi
  root=${root:+${root%/}/}experiments
fi
case $root in
  *://*) exit ;; # each look at remote storage would take a request
  "~/"*) root=$HOME/${root#"~/"} ;;
esac
echo @last
for plan in "$root"/*/version_*/launch/plan.json; do
  name=${plan#"$root"/}
  name=${name%/launch/plan.json}
  case $name in
    [.=-]* | *[!A-Za-z0-9._+=/-]* | *"*"*) ;;
    *) printf "%s\n" "$name" ;;
  esac
done
