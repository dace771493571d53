"""What the invented shop sells: tables of kinds of products, their attributes, options and prices.

Decided here: every kind belongs to one split, so that "unseen" goals are about kinds that no training goal names, and
"pretrain" has kinds of its own. Attributes of a kind are so unlike each other that the reward's fuzzy comparison tells
them apart. Brands and models are made of syllables; nothing is taken from a real shop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ipr.envs.webshop.goods import SEPARATOR

POOLS = {
    "color": "black;white;navy blue;grey;red;forest green;burgundy;beige;pink;purple;yellow;teal;brown;orange;sky blue",
    "wood": "walnut;natural oak;espresso;white;black;rustic brown;grey",
    "metal": "silver;rose gold;matte black;bronze;copper",
    "clothes": "x-small;small;medium;large;x-large;xx-large;3x-large",
    "shoes": "6;6.5;7;7.5;8;8.5;9;9.5;10;10.5;11;12",
    "ring": "5;6;7;8;9;10",
    "pack": "single;pair;trio;six pack;dozen",
    "ounces": "4 ounce;6 ounce;8 ounce;12 ounce;16 ounce;32 ounce",
    "pillow": "16 x 16 inch;18 x 18 inch;20 x 20 inch;24 x 24 inch",
    "rug": "2 x 3 ft;3 x 5 ft;4 x 6 ft;5 x 8 ft;8 x 10 ft",
    "bed": "twin;full;queen;king;california king",
    "curtain": "42 x 63 inch;42 x 84 inch;52 x 84 inch;52 x 96 inch",
    "print": "8 x 10 inch;12 x 16 inch;16 x 20 inch;24 x 36 inch",
    "cable": "3 feet;6 feet;10 feet;15 feet",
    "memory": "64gb;128gb;256gb;512gb",
    "phone": "nova 7;nova 8;nova 8 pro;zen x2;zen x3;orbit mini",
    "sweet": "vanilla;dark chocolate;strawberry;salted caramel;peanut butter;mint",
    "savoury": "sea salt;barbecue;sour cream;chili lime;rosemary",
    "tea": "jasmine;earl grey;lemon ginger;chamomile;peppermint",
    "scent": "lavender;coconut;citrus;cedarwood;unscented;rose",
    "fit": "men;women;youth",
    "volume": "250 ml;500 ml;750 ml;1 liter",
    "plug": "american plug;british plug;european plug",
    "skin": "fair;ivory;honey;caramel;cocoa",
}

_KINDS = """
train|fashion|Clothing, Shoes & Jewelry>Men>Shoes>Running
running shoes|Running Shoes;Road Running Shoes;Jogging Shoes
slip resistant;quick drying;arch support+;memory foam+;rubber sole+;reflective;wide toe box+;machine washable
color=color;size=shoes|35-110|Gym;Marathon;Daily Training

train|fashion|Clothing, Shoes & Jewelry>Women>Shoes>Sandals
women's sandals|Sandals for Women;Wedge Sandals;Strappy Sandals
open toe;ankle strap+;ergonomic;faux leather+;cork footbed+;hand stitched;non slip;adjustable buckle+
color=color;size=shoes|18-70|Beach;Summer;Party

train|fashion|Clothing, Shoes & Jewelry>Women>Clothing>Dresses>Casual
women's dresses|Maxi Dress;Midi Dress;Wrap Dress
long sleeve;floral print+;side pockets+;v neck;elastic waist+;wrinkle free;dry clean only;lined
color=color;size=clothes|20-80|Wedding;Office;Vacation

train|fashion|Clothing, Shoes & Jewelry>Men>Clothing>Shirts>T-Shirts
men's t-shirts|T-Shirt;Crew Neck T-Shirt;Graphic T-Shirt
moisture wicking;short sleeve;tagless;pre shrunk;heavyweight cotton+;chest pocket+;sun protection+;slim fit
color=color;size=clothes;fit type=fit|9-35|Workout;Hiking;Everyday Wear

train|fashion|Clothing, Shoes & Jewelry>Men>Clothing>Shorts
men's shorts|Shorts;Cargo Shorts;Gym Shorts
elastic waistband+;quick dry;zipper pockets+;drawstring closure+;stretch fabric+;mesh lining+;knee length;rain proof
color=color;size=clothes|14-45|Basketball;Fishing;Travel

train|fashion|Clothing, Shoes & Jewelry>Women>Handbags & Wallets>Totes
tote bags|Tote Bag;Shoulder Tote Bag;Work Tote Bag
vegan leather+;laptop sleeve+;waterproof;top zipper+;foldable;hand woven;detachable pouch+;canvas
color=color|16-75|Work;Travel;School

train|beauty|Beauty & Personal Care>Skin Care>Face>Moisturizers
face moisturizers|Face Moisturizer;Facial Cream;Face Lotion
fragrance free;oil free;cruelty free;hyaluronic acid+;paraben free;vitamin c+;non greasy;sensitive skin+
scent=scent;size=ounces|8-45|Dry Skin;Night Care;Morning Care

train|beauty|Beauty & Personal Care>Hair Care>Shampoo
shampoos|Shampoo;Daily Shampoo;Repair Shampoo
sulfate free;argan oil+;color safe;tea tree+;plant based;dandruff control+;volumizing;silicone free
scent=scent;size=ounces|7-32|Curly Hair;Damaged Hair;Thin Hair

train|beauty|Beauty & Personal Care>Makeup>Lips>Lipstick
lipsticks|Lipstick;Matte Lipstick;Liquid Lipstick
long lasting;smudge proof;shea butter+;gluten free;highly pigmented;moisturizing;talc free;twist up
color=color|6-28|Evening;Office;Bridal Makeup

train|beauty|Beauty & Personal Care>Oral Care>Toothbrushes
toothbrushes|Toothbrush;Bamboo Toothbrush;Travel Toothbrush
soft bristles+;biodegradable;charcoal infused;tongue scraper+;bpa free;folding;ergonomic handle+;easy grip
color=color;size=pack|5-22|Adults;Kids;Sensitive Gums

train|electronics|Electronics>Headphones>Earbud Headphones
wireless earbuds|Wireless Earbuds;Bluetooth Earbuds;Sport Earbuds
noise cancelling;sweat resistant;touch control+;charging case+;deep bass+;fast pairing;built in microphone+;low latency
color=color|20-120|Running;Calls;Gaming

train|electronics|Electronics>Accessories>Cables>USB Cables
usb c cables|USB C Cable;USB C Charging Cable;USB C Data Cable
fast charging;nylon braided;gold plated;tangle free;right angle;high speed data+;reinforced joints+;magnetic tip+
color=color;size=cable|6-25|Laptop;Car;Desk

train|electronics|Electronics>Computers & Accessories>Data Storage>USB Flash Drives
usb flash drives|USB Flash Drive;Flash Memory Stick;Thumb Drive
metal casing+;password protected;key ring+;water proof;shock proof;retractable;dual connector+;write protection+
size=memory;color=metal|8-60|Backup;Photos;School

train|electronics|Cell Phones & Accessories>Cases, Holsters & Sleeves
phone cases|Phone Case;Slim Phone Case;Rugged Phone Case
shock absorbing;card holder+;crystal clear;kickstand+;raised edges+;wireless charging+;anti yellowing;lanyard loop+
color=color;style=phone|8-35|Travel;Work;Outdoor

train|electronics|Electronics>Portable Audio & Video>Portable Speakers
bluetooth speakers|Bluetooth Speaker;Portable Speaker;Mini Speaker
waterproof;stereo sound+;hands free calls+;dust proof;carrying strap+;long battery life+;led lights+;party pairing+
color=color|18-140|Shower;Camping;Party

train|garden|Home & Kitchen>Bedding>Decorative Pillows
throw pillow covers|Throw Pillow Cover;Cushion Cover;Decorative Pillow Cover
double sided;hidden zipper+;machine washable;fade resistant;velvet;pom pom trim+;water resistant;hand embroidered
color=color;size=pillow|8-30|Couch;Bedroom;Patio

train|garden|Home & Kitchen>Furniture>Living Room>Tables>Coffee Tables
coffee tables|Coffee Table;Round Coffee Table;Lift Top Coffee Table
easy assembly;storage shelf+;solid wood+;tempered glass+;adjustable feet+;scratch resistant;hidden drawer+;steel frame+
color=wood|70-260|Living Room;Office;Small Spaces

train|garden|Home & Kitchen>Rugs>Area Rugs
area rugs|Area Rug;Shag Rug;Washable Rug
stain resistant;non shedding;pet friendly;rubber backing+;hand tufted;low pile;spill proof;extra plush
color=color;size=rug|25-180|Living Room;Nursery;Hallway

train|garden|Home & Kitchen>Window Treatments>Curtains
blackout curtains|Blackout Curtains;Thermal Curtains;Grommet Curtains
thermal insulated;noise reducing;rod pocket+;energy efficient;wrinkle resistant;tiebacks+;triple weave;linen texture+
color=color;size=curtain|18-70|Bedroom;Nursery;Home Office

train|garden|Home & Kitchen>Wall Art>Posters & Prints
wall art|Wall Art;Canvas Wall Art;Framed Wall Art
ready to hang;hand painted;wooden frame+;fade proof ink+;mountain landscape+;abstract;museum quality;three piece
size=print;color=wood|15-90|Living Room;Bathroom;Office

train|garden|Home & Kitchen>Lighting>Desk Lamps
desk lamps|Desk Lamp;LED Desk Lamp;Clamp Desk Lamp
dimmable;usb port+;swing arm+;eye caring;touch switch+;battery powered;color temperature control+;foldable
color=color;style=plug|16-75|Reading;Crafts;Home Office

train|grocery|Grocery & Gourmet Food>Snacks & Sweets>Bars>Protein
protein bars|Protein Bar;Crunchy Protein Bar;Breakfast Protein Bar
gluten free;high protein;low sugar;non gmo;keto friendly;nut free;soy free;grass fed whey+
flavor name=sweet;size=pack|10-45|Gym;Hiking;School Lunch

train|grocery|Grocery & Gourmet Food>Snacks & Sweets>Chips & Crisps
potato chips|Potato Chips;Kettle Chips;Ridged Chips
kettle cooked;no artificial flavors+;dairy free;kosher;avocado oil+;thick cut;reduced fat;lightly salted
flavor name=savoury;size=ounces|6-30|Parties;Lunch;Movie Night

train|grocery|Grocery & Gourmet Food>Beverages>Tea
herbal teas|Herbal Tea;Loose Leaf Tea;Tea Bags
caffeine free;usda organic;individually wrapped;fair trade;plastic free;hand picked;resealable bag+;sugar free
flavor name=tea;size=pack|6-28|Relaxing;Gifts;Iced Tea

train|sports|Sports & Outdoors>Exercise & Fitness>Yoga>Mats
yoga mats|Yoga Mat;Exercise Mat;Travel Yoga Mat
non slip;extra thick;carrying strap+;eco friendly;alignment lines+;tear resistant;natural rubber+;odorless
color=color|15-80|Pilates;Home Gym;Meditation

train|sports|Sports & Outdoors>Hydration>Water Bottles
water bottles|Water Bottle;Insulated Water Bottle;Sports Water Bottle
leak proof;double wall;straw lid+;bpa free;dishwasher safe;wide mouth;sweat free;stainless steel
color=color;size=volume|10-45|Hiking;Gym;School

unseen|fashion|Clothing, Shoes & Jewelry>Women>Jewelry>Rings
rings for women|Ring;Stacking Ring;Promise Ring
hypoallergenic;sterling silver+;tarnish resistant;cubic zirconia+;hand engraved;nickel free;open band+;gift box+
color=metal;size=ring|12-85|Anniversary;Birthday;Engagement

unseen|fashion|Clothing, Shoes & Jewelry>Men>Clothing>Jackets
men's jackets|Jacket;Rain Jacket;Softshell Jacket
wind proof;fleece lined;removable hood+;waterproof zippers+;inner pocket+;breathable liner+;packable;adjustable cuffs+
color=color;size=clothes|35-150|Skiing;Commuting;Camping

unseen|beauty|Beauty & Personal Care>Makeup>Face>Foundation
foundation makeup|Foundation;Liquid Foundation;Cushion Foundation
full coverage;spf protection+;vegan;fragrance free;buildable;dermatologist tested;airless pump+;matte finish+
color=skin;size=ounces|9-48|Oily Skin;Photography;Daily Makeup

unseen|electronics|Electronics>Computers & Accessories>Keyboards
mechanical keyboards|Mechanical Keyboard;Compact Keyboard;Gaming Keyboard
hot swappable;rgb backlight+;silent switches+;detachable cable+;spill resistant;aluminum frame+;wrist rest+;programmable
color=color;style=plug|35-160|Programming;Esports;Office

unseen|garden|Home & Kitchen>Bedding>Sheets
bed sheets|Bed Sheets;Sheet Set;Fitted Sheets
deep pocket+;wrinkle resistant;cooling;bamboo fiber+;oeko tex certified;pill resistant;sateen weave+;oversized hem+
color=color;size=bed|22-120|Guest Room;Summer;Dorm

unseen|garden|Home & Kitchen>Kitchen & Dining>Cookware>Frying Pans
frying pans|Frying Pan;Nonstick Frying Pan;Cast Iron Pan
induction compatible;oven safe;pfoa free;stay cool handle+;glass lid+;pour spouts+;scratch proof;ceramic coating+
color=metal;size=pack|18-95|Eggs;Steak;Pancakes

unseen|grocery|Grocery & Gourmet Food>Beverages>Coffee
ground coffee|Ground Coffee;Espresso Coffee;Cold Brew Coffee
single origin;low acid;shade grown;dark roast;water processed decaf;small batch;mold free;compostable pods+
flavor name=sweet;size=ounces|9-38|French Press;Moka Pot;Drip Machine

unseen|sports|Sports & Outdoors>Camping & Hiking>Tents
camping tents|Camping Tent;Dome Tent;Backpacking Tent
instant setup;rainfly included+;fire retardant;two doors+;mesh windows+;ultralight;blackout lining+;storage loops+
color=color;style=fit|45-240|Festivals;Family Trips;Beach

pretrain|fashion|Clothing, Shoes & Jewelry>Women>Shoes>Boots
women's boots|Ankle Boots;Winter Boots;Chelsea Boots
side zipper+;faux fur lining+;block heel+;water resistant;non slip;pull tabs+;cushioned;lace up
color=color;size=shoes|30-130|Snow;Office;Walking

pretrain|fashion|Clothing, Shoes & Jewelry>Men>Clothing>Pants
men's pants|Pants;Jogger Pants;Chino Pants
tapered leg+;stretch waist+;wrinkle free;hidden pocket+;machine washable;stain resistant;lightweight;double stitched
color=color;size=clothes|22-70|Golf;Work;Travel

pretrain|fashion|Clothing, Shoes & Jewelry>Women>Clothing>Sweaters
women's sweaters|Sweater;Cardigan Sweater;Turtleneck Sweater
cable knit;button front+;oversized;cashmere blend+;hand wash;ribbed cuffs+;hooded;anti static
color=color;size=clothes|18-90|Winter;Lounging;School

pretrain|fashion|Clothing, Shoes & Jewelry>Luggage>Backpacks
backpacks|Backpack;Laptop Backpack;Travel Backpack
water proof;usb charging port+;anti theft;padded straps+;shoe compartment+;expandable;luggage sleeve+;chest clip+
color=color|22-95|College;Hiking;Business

pretrain|beauty|Beauty & Personal Care>Skin Care>Body>Lotions
body lotions|Body Lotion;Hand Lotion;Body Butter
coconut oil+;fast absorbing;paraben free;aloe vera+;dye free;non sticky;cruelty free;vitamin e+
scent=scent;size=ounces|6-30|Winter Skin;After Sun;Massage

pretrain|beauty|Beauty & Personal Care>Tools & Accessories>Makeup Brushes
makeup brushes|Makeup Brush Set;Foundation Brush;Eyeshadow Brushes
synthetic bristles+;travel case+;easy to clean;vegan;angled;wooden handle+;shed proof;double ended
color=metal;size=pack|7-40|Contour;Powder;Travel

pretrain|electronics|Electronics>Computers & Accessories>Mice
wireless mice|Wireless Mouse;Ergonomic Mouse;Bluetooth Mouse
silent click+;rechargeable;adjustable dpi+;side buttons+;thumb rest+;dual mode;left handed;auto sleep
color=color|10-60|Laptop;Design;Travel

pretrain|electronics|Electronics>Wearable Technology>Smartwatch Bands
watch bands|Watch Band;Sport Watch Band;Leather Watch Band
quick release;sweat proof;genuine leather+;magnetic clasp+;air holes+;steel buckle+;skin friendly;adjustable length+
color=color;size=clothes|7-45|Swimming;Office;Sport

pretrain|electronics|Electronics>Power Accessories>Power Banks
power banks|Power Bank;Slim Power Bank;Solar Power Bank
fast charge;led display+;airline approved;dual usb+;built in cable+;drop proof;trickle charging+;flashlight+
color=color;style=plug|15-70|Flights;Camping;Phones

pretrain|electronics|Electronics>Camera & Photo>Tripods
phone tripods|Phone Tripod;Tripod Stand;Desktop Tripod
flexible legs+;remote shutter+;telescopic;rotating head+;aluminum alloy+;non slip feet+;carry pouch+;quick lock+
color=color;style=phone|12-65|Vlogging;Video Calls;Travel

pretrain|garden|Home & Kitchen>Bath>Towels
bath towels|Bath Towel;Bath Sheet;Towel Set
quick drying;highly absorbent;hanging loop+;turkish cotton+;lint free;fade resistant;ultra soft;double hem+
color=color;size=pack|12-60|Spa;Guests;Gym

pretrain|garden|Home & Kitchen>Furniture>Bar Stools
bar stools|Bar Stool;Swivel Bar Stool;Counter Stool
height adjustable;swivel seat+;foot rest+;faux leather+;curved back+;floor protectors+;stackable;chrome base+
color=wood|45-190|Kitchen Island;Bar;Cafe

pretrain|garden|Home & Kitchen>Storage>Baskets
storage baskets|Storage Basket;Woven Basket;Laundry Basket
cotton rope+;leather handles+;collapsible;removable liner+;hand woven;dust cover+;sturdy base+;label window+
color=color;size=pack|12-55|Toys;Closet;Bathroom

pretrain|grocery|Grocery & Gourmet Food>Snacks & Sweets>Cookies
cookies|Cookies;Shortbread Cookies;Soft Baked Cookies
gluten free;low calorie;egg free;individually wrapped;whole grain+;no palm oil+;certified kosher;reduced sugar
flavor name=sweet;size=pack|5-28|Gifts;School Lunch;Coffee Break

pretrain|grocery|Grocery & Gourmet Food>Pantry Staples>Nuts
roasted nuts|Roasted Nuts;Mixed Nuts;Almonds
lightly salted;dry roasted;non gmo;resealable pouch+;preservative free;keto friendly;unsalted;small batch
flavor name=savoury;size=ounces|7-36|Trail;Office Snack;Baking

pretrain|sports|Sports & Outdoors>Exercise & Fitness>Resistance Bands
resistance bands|Resistance Bands;Loop Bands;Pull Up Bands
latex free;door anchor+;fabric;anti roll;foam handles+;snap proof;mesh bag+;five levels+
color=color;style=fit|9-45|Home Gym;Therapy;Travel
"""
"""Each kind: split, department, crumbs / name, words of titles / attributes, "+" at those one has / options, prices,
uses."""


_SYLLABLES = "no va ri ke lo mi ta zen or bel dar fi gal hu jo ki lum mer na os pra qui rol sa tor ul ven wo yar zi"
SYLLABLES = tuple(_SYLLABLES.split())
"""Brands are two or three of these."""
FILLERS = ("New Arrival", "Gift Idea", "Upgraded", "Best Value", "Modern Design", "Home Essential", "Limited Edition")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of product."""

    split: str
    """train (with dev and seen), unseen or pretrain."""
    department: str
    crumbs: str
    query: str
    """The kind's name as customers write it, plural or a mass noun."""
    nouns: tuple[str, ...]
    """How titles call it."""
    attributes: tuple[str, ...]
    have: frozenset[str]
    """Attributes that a product has ("with a kickstand"), the others being what it is ("foldable")."""
    options: tuple[tuple[str, tuple[str, ...]], ...]
    prices: tuple[int, int]
    """Dollars, lowest and highest."""
    uses: tuple[str, ...]


@cache
def kinds() -> tuple[Kind, ...]:
    return tuple(_kind(entry) for entry in _KINDS.strip().split("\n\n"))


def _kind(entry: str) -> Kind:
    split, department, crumbs, query, nouns, attributes, options, prices, uses = entry.replace("\n", "|").split("|")
    low, high = prices.split("-")
    pairs = [option.split("=") for option in options.split(";")]
    return Kind(
        split=split,
        department=department,
        crumbs=f" {SEPARATOR} ".join(crumbs.split(">")),
        query=query,
        nouns=tuple(nouns.split(";")),
        attributes=tuple(a.rstrip("+") for a in attributes.split(";")),
        have=frozenset(a.rstrip("+") for a in attributes.split(";") if a.endswith("+")),
        options=tuple((name, tuple(POOLS[pool].split(";"))) for name, pool in pairs),
        prices=(int(low), int(high)),
        uses=tuple(uses.split(";")),
    )
