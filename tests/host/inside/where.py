"""What a script in this folder finds around it."""

import json
import sys

import on_cpu  # noqa: F401  (before anything else of ComfyUI)

if sys.argv[1:] == ["fail"]:
    raise SystemExit("asked to fail")

import comfy.model_management  # noqa: E402

import identity_lock  # noqa: E402

print(
    json.dumps(
        {
            "arguments": sys.argv[1:],
            "comfy": "comfy.model_management" in sys.modules,
            "pack": identity_lock.__name__,
            "device": comfy.model_management.get_torch_device().type,
        }
    )
)
